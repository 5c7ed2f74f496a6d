// Results of given logits: as of a score, but that the tile of logits is a copy of what is given. Whole rows of it are
// in memory, so that a log_softmax is made of them once the sums are known.
// Predicted: the sums as in fold.cuh, and as much again for a log_softmax of the whole row, two roundings of four
// numbers each. Measured: not yet.
#pragma once

#include "cuda/score.cuh"

namespace isologit::detail::cuda {

struct GivenRequest {
  Operand logits;
  std::int64_t rows;
  int vocab;
  const float* temperatures;  // or null
  bool one_temperature;
  const std::int64_t* ids;  // or null
  int ids_per_row;
  std::int64_t ignored;
  float* logprobs;
  float* lse;
  float* entropy;
  float* log_softmax;  // [rows, vocab]
  std::int64_t log_softmax_stride;
  Status* status;
  void* workspace;
};

struct GivenPlan {
  std::int64_t rows;  // at a time; the tile comes first
  int stretches;
  std::int64_t sums_at, facts_at, chosen_at, bytes;
};
inline GivenPlan given_plan(std::int64_t all_rows, int vocab, int ids_per_row) {
  GivenPlan plan;
  plan.rows = least_of(all_rows, least_of(kRowsAtOnce, kPartBytes / 4 / vocab));
  plan.stretches = (vocab + kStretch - 1) / kStretch;
  plan.sums_at = round_up(plan.rows * vocab * 4, 16);
  plan.facts_at = plan.sums_at + plan.rows * plan.stretches * static_cast<std::int64_t>(sizeof(RowSum));
  plan.chosen_at = plan.facts_at + plan.rows * static_cast<std::int64_t>(sizeof(Normalizer));
  plan.bytes = plan.chosen_at + plan.rows * ids_per_row * 4;
  return plan;
}

struct Given {
  Operand logits;
  std::int64_t first_row;
  int vocab;
  float* tile;  // [rows, vocab]
};
template <class BlockType>
struct Take {
  using Block = BlockType;
  using Args = Given;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Given& p, int stretch, int row) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int i = 0; i < kPerThread; ++i) {
          const int v = stretch * kStretch + i * Block::kThreads + 32 * warp + lane;
          if (v >= p.vocab) return;
          p.tile[static_cast<std::int64_t>(row) * p.vocab + v] =
              element_value(p.logits.data, p.logits.type, (p.first_row + row) * p.logits.stride + v);
        }
      });
    });
  }
};

struct Softmaxing {
  const float* tile;
  const Normalizer* facts;
  int vocab;
  std::int64_t first_row;
  float* log_softmax;
  std::int64_t stride;
  Status* status;
};
template <class BlockType>
struct LogSoftmax {
  using Block = BlockType;
  using Args = Softmaxing;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Softmaxing& p, int stretch, int row) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const Normalizer facts = p.facts[row];
        for (int i = 0; i < kPerThread; ++i) {
          const int v = stretch * kStretch + i * Block::kThreads + 32 * warp + lane;
          if (v >= p.vocab) return;
          const float z = p.tile[static_cast<std::int64_t>(row) * p.vocab + v];
          const float found = facts.ignored ? 0.0F : logprob(z, facts.greatest, facts.log);
          if (is_open(found)) block.count(p.status->open);
          p.log_softmax[(p.first_row + row) * p.stride + v] = found;
        }
      });
    });
  }
};

template <class Launcher>
void launch_given(Launcher& launcher, const GivenRequest& r, const GivenPlan& plan) {
  char* const memory = static_cast<char*>(r.workspace);
  auto* const tile = reinterpret_cast<float*>(memory);
  auto* const sums = reinterpret_cast<RowSum*>(memory + plan.sums_at);
  auto* const facts = reinterpret_cast<Normalizer*>(memory + plan.facts_at);
  auto* const chosen = reinterpret_cast<float*>(memory + plan.chosen_at);
  using Eight = typename Launcher::template Block<8>;
  using Four = typename Launcher::template Block<4>;
  const Transforms temperature = {0.0F, kNoFactor, 1.0F, false, r.temperatures, r.one_temperature};
  for (std::int64_t first = 0; first < r.rows; first += plan.rows) {
    const int rows = static_cast<int>(least_of(r.rows - first, plan.rows));
    launcher.template launch<Take<Eight>>(plan.stretches, rows, Given{r.logits, first, r.vocab, tile});
    Folding fold = {};
    fold.logits = tile;
    fold.stride = fold.size = r.vocab;
    fold.transforms = temperature;
    fold.first_row = first;
    fold.sums = sums;
    fold.stretches = plan.stretches;
    fold.ids = r.ids;
    fold.ids_per_row = r.ids_per_row;
    fold.chosen = chosen;
    fold.status = r.status;
    if (r.entropy != nullptr) {
      launcher.template launch<Fold<Eight, true>>(plan.stretches, rows, fold);
    } else {
      launcher.template launch<Fold<Eight, false>>(plan.stretches, rows, fold);
    }
    Finishing finish = {};
    finish.rows = rows;
    finish.stretches = plan.stretches;
    finish.vocab = r.vocab;
    finish.first_row = first;
    finish.sums = sums;
    finish.ids = r.ids;
    finish.ids_per_row = r.ids_per_row;
    finish.ignored = r.ignored;
    finish.ignores_rows = true;
    finish.chosen = chosen;
    finish.logprobs = r.logprobs;
    finish.lse = r.lse;
    finish.entropy = r.entropy;
    finish.facts = facts;
    finish.status = r.status;
    launcher.template launch<Finish<Four>>((rows + Four::kWarps - 1) / Four::kWarps, 1, finish);
    if (r.log_softmax == nullptr) continue;
    launcher.template launch<LogSoftmax<Eight>>(
        plan.stretches, rows, Softmaxing{tile, facts, r.vocab, first, r.log_softmax, r.log_softmax_stride, r.status});
  }
}

}  // namespace isologit::detail::cuda
