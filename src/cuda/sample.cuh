// Which kernels make samples, in which order, and what memory they share. Whole rows of logits are in memory, as many
// at a time as fit; how many changes no bit.
#pragma once

#include "cuda/draw.cuh"
#include "cuda/score.cuh"

namespace isologit::detail::cuda {

struct SampleRequest : HeadOperands {
  Transforms transforms;
  PerRow<float> temperatures;  // those of the transforms
  PerRow<std::uint64_t> seeds, sequence_ids;
  PerRow<std::uint32_t> positions;
  PerRow<float> min_p;
  PerRow<std::int64_t> top_k;
  PerRow<float> top_p;
  Support support;
  std::int64_t* ids;  // [rows]; each of the results may be null
  float* logprobs;
  float* cut_logprobs;
  float* log_kept_cut;
  Status* status;
  bool fast;  // as in LogitsRequest
  void* workspace;

  bool cuts() const { return min_p.data != nullptr || top_k.data != nullptr || top_p.data != nullptr; }
};

struct SamplePlan {
  Workspace prepared;
  std::int64_t rows;  // at a time
  int stretches;
  std::int64_t tile_at, sums_at, kept_at, dropped_at, found_at, least_at, bytes;
};
inline SamplePlan sample_plan(const SampleRequest& r) {
  SamplePlan plan;
  plan.stretches = (r.vocab + kStretch - 1) / kStretch;
  const std::int64_t word_bytes = round_up(r.size, kDepthGroup) * (r.hidden.type == kF32 ? 8 : 4);
  const std::int64_t fit = kPartBytes / word_bytes / kRowGroup * kRowGroup;
  const std::int64_t most = fit < kRowGroup ? kRowGroup : least_of(fit, kRowsAtOnce);
  plan.rows = least_of(r.rows, least_of(most, kPartBytes / 4 / r.vocab));
  plan.prepared = workspace_of(r.rows, r.size, r.hidden.type, plan.rows);
  const std::int64_t sum_bytes = plan.rows * plan.stretches * static_cast<std::int64_t>(sizeof(RowSum));
  plan.tile_at = round_up(plan.prepared.bytes, 16);
  plan.sums_at = round_up(plan.tile_at + plan.rows * r.vocab * 4, 16);
  plan.kept_at = plan.sums_at + sum_bytes;
  plan.dropped_at = plan.kept_at + (r.cuts() ? sum_bytes : 0);
  plan.found_at = plan.dropped_at + (r.cuts() ? sum_bytes : 0);
  plan.least_at = plan.found_at + plan.rows * plan.stretches * static_cast<std::int64_t>(sizeof(Contender));
  plan.bytes = plan.least_at + plan.rows * 8;
  return plan;
}

struct SampleFinishing {
  int rows, stretches;
  std::int64_t first_row;
  const RowSum* sums;
  const RowSum* kept;  // of what the cuts keep and of what they leave out; null where nothing is cut
  const RowSum* dropped;
  const Contender* found;
  PerRow<float> temperatures;
  std::int64_t* ids;  // [all rows]
  float* logprobs;
  float* cut_logprobs;
  float* log_kept_cut;
  Status* status;
};

// The results of rows: a warp a row.
template <class BlockType>
struct FinishSample {
  using Block = BlockType;
  using Args = SampleFinishing;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const SampleFinishing& p, int tile, int) {
    block.each_warp([&](int warp) {
      const int row = tile * Block::kWarps + warp;
      if (row >= p.rows) return;
      typename Block::template PerLane<Contender> found;
      typename Block::template PerLane<RowSum> sums;
      collect(block, p.found, p.stretches, row, nobody(), found);
      collect(block, p.sums, p.stretches, row, empty_row_sum(), sums);
      const std::int64_t at = p.first_row + row;
      const bool greedy = p.temperatures.of(at, 1.0F) == 0.0F;
      block.each_lane([&](int lane) {
        const Greatest& greatest = sums(lane).greatest;
        if (!is_plain(greatest)) {  // the argmax of the contract, or none
          const bool empty = greatest.nan_id == kNoId && greatest.top == minus_infinity();
          found(lane).id = empty ? -1 : greatest.nan_id != kNoId ? greatest.nan_id : greatest.id;
          found(lane).z = quiet_nan();
          found(lane).open = 0;
        } else if (greedy) {
          found(lane).id = greatest.id;
          found(lane).z = greatest.top;
          found(lane).open = 0;
        }
        if (lane != 0) return;
        if (found(lane).open != 0) block.count(p.status->open);
        if (p.ids != nullptr) p.ids[at] = found(lane).id;
        write(block, p, p.logprobs, at, logprob_of(found(lane), sums(lane)));
        if (p.kept == nullptr) {
          write(block, p, p.cut_logprobs, at, logprob_of(found(lane), sums(lane)));
          write(block, p, p.log_kept_cut, at, is_plain(greatest) ? 0.0F : quiet_nan());
        }
      });
      if (p.kept != nullptr) write_cut(block, p, row, found);
    });
  }

 private:
  template <class Found>
  ISOLOGIT_DEVICE static void write_cut(Block& block, const SampleFinishing& p, int row, Found& found) {
    typename Block::template PerLane<RowSum> kept, dropped;
    collect(block, p.kept, p.stretches, row, empty_row_sum(), kept);
    collect(block, p.dropped, p.stretches, row, empty_row_sum(), dropped);
    block.each_lane([&](int lane) {
      if (lane != 0) return;
      const std::int64_t at = p.first_row + row;
      write(block, p, p.cut_logprobs, at, logprob_of(found(lane), kept(lane)));
      const bool plain = is_plain(kept(lane).greatest);
      write(block, p, p.log_kept_cut, at, plain ? log_share(kept(lane), dropped(lane)) : quiet_nan());
    });
  }

  ISOLOGIT_DEVICE static float logprob_of(const Contender& found, const RowSum& sum) {
    return logprob(found.z, sum.greatest, log_total(sum.others));
  }

  ISOLOGIT_DEVICE static void write(Block& block, const SampleFinishing& p, float* to, std::int64_t at, float value) {
    if (to == nullptr) return;
    if (is_open(value)) block.count(p.status->open);
    to[at] = value;
  }
};

// From rows of products in the tile to results; first: among all.
template <class Launcher>
void launch_draws(Launcher& launcher, const SampleRequest& r, const SamplePlan& plan, std::int64_t first, int rows) {
  char* const memory = static_cast<char*>(r.workspace);
  auto* const tile = reinterpret_cast<float*>(memory + plan.tile_at);
  auto* const sums = reinterpret_cast<RowSum*>(memory + plan.sums_at);
  auto* const kept = r.cuts() ? reinterpret_cast<RowSum*>(memory + plan.kept_at) : nullptr;
  auto* const dropped = r.cuts() ? reinterpret_cast<RowSum*>(memory + plan.dropped_at) : nullptr;
  auto* const found = reinterpret_cast<Contender*>(memory + plan.found_at);
  auto* const least = r.cuts() ? reinterpret_cast<std::uint64_t*>(memory + plan.least_at) : nullptr;
  using Eight = typename Launcher::template Block<8>;
  using Four = typename Launcher::template Block<4>;
  Folding fold = {};
  fold.logits = tile;
  fold.stride = fold.size = r.vocab;
  fold.transforms = r.transforms;
  fold.first_row = first;
  fold.sums = sums;
  fold.stretches = plan.stretches;
  fold.status = r.status;
  fold.support = r.support;
  launcher.template launch<Fold<Eight, false>>(plan.stretches, rows, fold);
  const WholeRows whole{tile, r.vocab, first, r.support};
  if (r.cuts()) {
    launcher.template launch<Cut<Eight>>(
        rows, 1, Cutting{whole, sums, plan.stretches, r.temperatures, r.min_p, r.top_k, r.top_p, least, r.status});
    fold.transforms = {0.0F, kNoFactor, 1.0F, false, nullptr, false};  // they are done
    fold.least = least;
    fold.sums = kept;
    launcher.template launch<Fold<Eight, false>>(plan.stretches, rows, fold);
    fold.others = true;
    fold.sums = dropped;
    launcher.template launch<Fold<Eight, false>>(plan.stretches, rows, fold);
  }
  launcher.template launch<Draw<Eight>>(
      plan.stretches, rows, Drawing{whole, plan.stretches, least, r.seeds, r.sequence_ids, r.positions, found});
  launcher.template launch<FinishSample<Four>>(
      (rows + Four::kWarps - 1) / Four::kWarps, 1,
      SampleFinishing{rows, plan.stretches, first, sums, kept, dropped, found, r.temperatures, r.ids, r.logprobs,
                      r.cut_logprobs, r.log_kept_cut, r.status});
}

// make(product) launches the kernels of logits of this weight's type.
template <class Launcher, class Make>
void launch_sample(Launcher& launcher, const SampleRequest& r, const SamplePlan& plan, Make make) {
  for (std::int64_t first = 0; first < r.rows; first += plan.rows) {
    const int rows = static_cast<int>(least_of(r.rows - first, plan.rows));
    Product p = prepared(launcher, r, first, rows, r.workspace, plan.prepared, r.fast);
    p.logits = static_cast<char*>(r.workspace) + plan.tile_at;
    p.logits_stride = p.vocab = r.vocab;
    p.bias = r.bias;
    p.bias_type = r.bias_type;
    make(p);
    launch_draws(launcher, r, plan, first, rows);
  }
}

}  // namespace isologit::detail::cuda
