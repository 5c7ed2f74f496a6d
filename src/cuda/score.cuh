// Which kernels make scores, in which order, and what memory they share. Logits are made a block of the vocabulary at a
// time, in a tile that the next block overwrites; of each stretch of it a sum stays. How much is made at a time changes
// no bit: sums are of stretches, and what decides is proven of their numbers.
#pragma once

#include "cuda/finish.cuh"
#include "cuda/logits.cuh"
#include "cuda/rank.cuh"
#include "cuda/top_k.cuh"

namespace isologit::detail::cuda {

struct ScoreRequest : HeadOperands {
  Transforms transforms;
  const std::int64_t* ids;  // or null
  int ids_per_row;
  std::int64_t ignored;
  bool ignores_rows;
  float* logprobs;
  float* chosen_logits;
  float* lse;
  float* entropy;
  float* sum_p2;
  std::int64_t* argmax;
  float* log_kept;
  std::int64_t* rank;
  int top_k;  // 0: none
  std::int64_t* top_k_ids;
  float* top_k_logprobs;
  Support support;
  Status* status;
  double* summaries;  // [rows, summary_doubles], or null
  int summary_doubles;
  bool fast;  // as in LogitsRequest
  void* workspace;
};

inline constexpr int kMostIds = 4096;  // of a row
// Of words of hidden rows, of a tile, and of sums; with kMostIds logits of 1024 rows it stays below 256 MiB where 64
// hidden rows do (65536 columns).
inline constexpr std::int64_t kPartBytes = std::int64_t{1} << 26;
inline std::int64_t least_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// What only some calls need: the sums of the ids outside the support too, and whole rows of logits at a time.
inline bool needs_dropped(const ScoreRequest& r) { return r.log_kept != nullptr && !r.support.is_everything(); }
inline bool needs_whole_rows(const ScoreRequest& r) { return r.rank != nullptr || r.top_k != 0; }

// Where what lies in a workspace.
struct ScorePlan {
  Workspace prepared;
  std::int64_t rows;  // at a time
  int stretches, tile_columns;
  std::int64_t tile_at, sums_at, dropped_at, chosen_at, before_at, bytes;
};
inline ScorePlan score_plan(const ScoreRequest& r) {
  ScorePlan plan;
  plan.stretches = (r.vocab + kStretch - 1) / kStretch;
  const std::int64_t word_bytes = round_up(r.size, kDepthGroup) * (r.hidden.type == kF32    ? 8
                                                                   : r.hidden.type == kBf16 ? 4 + kDigits
                                                                                            : 4);
  const std::int64_t one_sum_bytes = plan.stretches * static_cast<std::int64_t>(sizeof(RowSum));
  const std::int64_t sum_bytes = needs_dropped(r) ? 2 * one_sum_bytes : one_sum_bytes;
  const std::int64_t fit = kPartBytes / (word_bytes > sum_bytes ? word_bytes : sum_bytes) / kRowGroup * kRowGroup;
  std::int64_t most = fit < kRowGroup ? kRowGroup : fit < kRowsAtOnce ? fit : kRowsAtOnce;
  if (needs_whole_rows(r)) most = least_of(most, kPartBytes / 4 / r.vocab);
  plan.prepared = workspace_of(r.rows, r.size, r.hidden.type, most);
  plan.rows = least_of(r.rows, most);
  const std::int64_t columns = kPartBytes / 4 / (plan.rows > 0 ? plan.rows : 1);
  plan.tile_columns = static_cast<int>(columns < r.vocab ? columns / kStretch * kStretch : r.vocab);
  plan.tile_at = round_up(plan.prepared.bytes, 16);
  plan.sums_at = round_up(plan.tile_at + plan.rows * plan.tile_columns * 4, 16);
  plan.dropped_at = plan.sums_at + plan.rows * one_sum_bytes;
  plan.chosen_at = plan.sums_at + plan.rows * sum_bytes;
  plan.before_at = plan.chosen_at + plan.rows * r.ids_per_row * 4;
  plan.bytes = plan.before_at + (r.rank != nullptr ? plan.rows * r.ids_per_row * 4 : 0);
  return plan;
}

// make(product) launches the kernels of logits of this weight's type.
template <class Launcher, class Make>
void launch_score(Launcher& launcher, const ScoreRequest& r, bool shape, const ScorePlan& plan, Make make) {
  char* const memory = static_cast<char*>(r.workspace);
  auto* const tile = reinterpret_cast<float*>(memory + plan.tile_at);
  auto* const sums = reinterpret_cast<RowSum*>(memory + plan.sums_at);
  auto* const dropped = needs_dropped(r) ? reinterpret_cast<RowSum*>(memory + plan.dropped_at) : nullptr;
  auto* const chosen = reinterpret_cast<float*>(memory + plan.chosen_at);
  auto* const before = reinterpret_cast<std::uint32_t*>(memory + plan.before_at);
  using Eight = typename Launcher::template Block<8>;
  using Four = typename Launcher::template Block<4>;
  for (std::int64_t first = 0; first < r.rows; first += plan.rows) {
    const int rows = static_cast<int>(r.rows - first < plan.rows ? r.rows - first : plan.rows);
    Product p = prepared(launcher, r, first, rows, r.workspace, plan.prepared, r.fast);
    p.logits = tile;
    p.bias_type = r.bias_type;
    for (int v = 0; v < r.vocab; v += plan.tile_columns) {
      p.vocab = r.vocab - v < plan.tile_columns ? r.vocab - v : plan.tile_columns;
      p.logits_stride = p.vocab;
      p.weight = static_cast<const char*>(r.weight.data) + v * r.weight.stride * element_size(r.weight.type);
      if (r.bias != nullptr) p.bias = static_cast<const char*>(r.bias) + v * element_size(r.bias_type);
      make(p);
      Folding fold{tile,  p.vocab,       v,      p.vocab,  r.transforms, first, sums, plan.stretches,
                   r.ids, r.ids_per_row, chosen, r.status, r.support,    false};
      const int stretches = (p.vocab + kStretch - 1) / kStretch;
      if (shape) {
        launcher.template launch<Fold<Eight, true>>(stretches, rows, fold);
      } else {
        launcher.template launch<Fold<Eight, false>>(stretches, rows, fold);
      }
      if (dropped != nullptr) {
        fold.others = true;
        fold.sums = dropped;
        fold.ids = nullptr;
        launcher.template launch<Fold<Eight, false>>(stretches, rows, fold);
      }
    }
    const WholeRows whole{tile, r.vocab, first, r.support};
    if (r.rank != nullptr) {
      launcher.template launch<Rank<Eight>>(r.ids_per_row, rows, Ranking{whole, r.ids, r.ids_per_row, before});
    }
    if (r.top_k != 0) {
      launcher.template launch<TopK<Eight>>(rows, 1, TopKs{whole, r.top_k, r.top_k_ids, r.top_k_logprobs});
    }
    launcher.template launch<Finish<Four>>(
        (rows + Four::kWarps - 1) / Four::kWarps, 1,
        Finishing{
            rows,          plan.stretches,   r.vocab,        first,     sums,       dropped,     r.ids,
            r.ids_per_row, r.ignored,        r.ignores_rows, chosen,    before,     r.logprobs,  r.chosen_logits,
            r.lse,         r.entropy,        r.sum_p2,       r.argmax,  r.log_kept, r.rank,      r.top_k,
            r.top_k_ids,   r.top_k_logprobs, nullptr,        r.support, r.status,   r.summaries, r.summary_doubles});
  }
}

}  // namespace isologit::detail::cuda
