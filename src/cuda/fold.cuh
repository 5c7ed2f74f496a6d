// The sums of a stretch of a row of products: transforms, the greatest logit, then the sums relative to it; of the ids
// of a support, or of all others; or, of last logits, of what a cut keeps or leaves out.
//
// One block a stretch. What stretches leave is kept apart until the row is finished, so no number depends on how many
// of them are made at a time. Predicted: some 350 instructions in f64 for each logit, of which an H200 makes 16 10^12 a
// second: 3.4 ms for 1024 rows of V=151936, a seventh of the products' time. Measured
// (H100, 2026-11-27): 0.31 ms for 64 rows, the f64 pipe 70% busy.
#pragma once

#include "cuda/block.cuh"
#include "cuda/order.cuh"
#include "cuda/row_sum.cuh"
#include "cuda/transforms.cuh"

namespace isologit::detail::cuda {

inline constexpr int kPerThread = 8;
inline constexpr int kStretch = 256 * kPerThread;  // of the vocabulary, in one block

struct Folding {
  float* logits;  // [rows, size]: products, of which the logits after all transforms are made in place
  std::int64_t stride;
  int first_id, size;  // of the vocabulary; first_id is a multiple of kStretch
  Transforms transforms;
  std::int64_t first_row;   // among all, whose temperatures and ids these are
  RowSum* sums;             // [rows, stretches]
  int stretches;            // of the whole vocabulary
  const std::int64_t* ids;  // [all rows, ids_per_row], or null
  int ids_per_row;
  float* chosen;  // [rows, ids_per_row]: the logits of these ids, -inf of those left out
  Status* status;
  Support support;
  bool others;  // the ids outside the support instead
  // [rows], or null: of the support only what its cut keeps (cut.cuh), or with `others` only what it leaves out.
  const std::uint64_t* least;

  ISOLOGIT_DEVICE bool takes(int row, int id, float z) const {
    const bool in = support.has(first_row + row, id);
    if (least == nullptr) return in != others;
    return in && (order_key(z, id) >= least[row]) != others;
  }
};

template <class BlockType, bool SHAPE>
struct Fold {
  using Block = BlockType;
  using Args = Folding;
  static constexpr int kBlocksPerProcessor = 1;
  static_assert(Block::kThreads * kPerThread == kStretch);

  struct Shared {
    Greatest greatest[Block::kWarps];
    Others others[Block::kWarps];
  };
  struct Lane {
    float z[kPerThread];  // -inf past the end
    Greatest greatest;
    Others others;
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Folding& p, int stretch, int row) {
    typename Block::template PerThread<Lane> state;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { load(block, state(warp, lane), p, stretch, row, 32 * warp + lane); });
      block.reduce([&](int lane) -> Greatest& { return state(warp, lane).greatest; }, 1, 32,
                   [](Greatest& to, const Greatest& from) { merge(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.greatest[warp] = state(warp, lane).greatest;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { sum(state(warp, lane), shared, p, stretch, 32 * warp + lane); });
      block.reduce([&](int lane) -> Others& { return state(warp, lane).others; }, 1, 32,
                   [](Others& to, const Others& from) { merge(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.others[warp] = state(warp, lane).others;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp == 0 && lane == 0) store(shared, state(0, 0).greatest, p, stretch, row);
        choose(p, stretch, row, 32 * warp + lane);
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static int place(int stretch, int i, int thread) {
    return stretch * kStretch + i * Block::kThreads + thread;
  }

  ISOLOGIT_DEVICE static void load(Block& block, Lane& own, const Folding& p, int stretch, int row, int thread) {
    const float temperature = p.transforms.temperature_of(p.first_row + row);
    own.greatest = nothing_greatest();
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPerThread; ++i) own.z[i] = minus_infinity();
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const int v = place(stretch, i, thread);
      if (v >= p.size) continue;
      float& z = p.logits[row * p.stride + v];
      if (!p.takes(row, p.first_id + v, z)) continue;
      z = own.z[i] = transformed(p.transforms, z, temperature);
      if (is_open(own.z[i])) block.count(p.status->open);
      absorb(own.greatest, own.z[i], p.first_id + v);
    }
  }

  ISOLOGIT_DEVICE static void sum(Lane& own, const Shared& shared, const Folding& p, int stretch, int thread) {
    own.greatest = shared.greatest[0];
    for (int w = 1; w < Block::kWarps; ++w) merge(own.greatest, shared.greatest[w]);
    own.others = no_others();
    const float top = own.greatest.top;
    if (!is_finite(top)) return;
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const float z = own.z[i];
      if (z > minus_infinity() && p.first_id + place(stretch, i, thread) != own.greatest.id) {
        absorb<SHAPE>(own.others, z, top);
      }
    }
  }

  ISOLOGIT_DEVICE static void store(const Shared& shared, const Greatest& greatest, const Folding& p, int stretch,
                                    int row) {
    RowSum all = {greatest, 0, shared.others[0]};
    for (int w = 1; w < Block::kWarps; ++w) merge(all.others, shared.others[w]);
    p.sums[static_cast<std::int64_t>(row) * p.stretches + p.first_id / kStretch + stretch] = all;
  }

  ISOLOGIT_DEVICE static void choose(const Folding& p, int stretch, int row, int thread) {
    if (p.ids == nullptr) return;
    for (int k = thread; k < p.ids_per_row; k += Block::kThreads) {
      const std::int64_t v = p.ids[(p.first_row + row) * p.ids_per_row + k] - p.first_id;
      if (v < stretch * kStretch || v >= (stretch + 1) * kStretch || v >= p.size) continue;
      p.chosen[static_cast<std::int64_t>(row) * p.ids_per_row + k] =
          p.support.has(p.first_row + row, p.first_id + v) ? p.logits[row * p.stride + v] : minus_infinity();
    }
  }
};

}  // namespace isologit::detail::cuda
