// Logits of few hidden rows: the depth is split over the warps of a block.
//
// A block owns 16 MT weight rows and all (up to 8 NT) hidden rows; warp w takes the steps w, w + kWarps, ... of the
// depth, so that a block reads whole stretches of its weight rows together and weights of few rows still fill the
// device. The hidden rows, at most 32 of them, stay in the caches, in the order in which lanes read them (place_of);
// the weight passes by the first-level cache. Each warp loads one step ahead of both.
// Predicted: the read of the weight, for up to 16 rows: 0.29 ms at V=151936, H=4096, bf16; then the rate of f64
// products: 0.6 ms for 32 rows. Measured (H200, 2026-11-26): 0.40 ms for 1 to 8 rows, 0.58 for 16, 0.88 for 32. Not
// profiled; what the trials say: every block reads all hidden words from the caches, and the fewer blocks, the faster.
// With 16 weight rows a block the words of 8 hidden rows are as many bytes as the weight (0.44 ms at best), with 64 a
// quarter (0.40); for 16 and 32 rows 32 weight rows were best, and the words are as many bytes as the weight, and twice
// as many. More steps ahead, 8 warps, and the hidden rows by way of shared memory (Staged) were slower.
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

template <class BlockType, class E, bool LOW, int MT, int NT>
struct Split {
  using Block = BlockType;
  using Args = Product;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kWeightRows = 16 * MT;
  static constexpr int kHiddenRows = 8 * NT;
  static constexpr int kBlocksPerProcessor = 1;

  struct Shared {
    double c[kWarps][MT][NT][4][32];
    Gathered gathered[kWarps][MT][2][8];
  };
  struct Step {
    Rows<E, MT> weight;
    HiddenChunk hidden[NT][2];
  };
  struct Lane {
    Sums<MT, NT> sums;
    Step ahead;
    const typename E::Bits* row[MT][2];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int tile, int) {
    typename Block::template PerThread<Lane> state;
    const int v0 = tile * kWeightRows;
    const int steps = (p.size + kStep - 1) / kStep;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { begin(state(warp, lane), p, v0, warp, lane); });
      for (int step = warp; step < steps; step += kWarps) {
        typename Block::template PerLane<Step> now;
        block.each_lane([&](int lane) {
          now(lane) = state(warp, lane).ahead;
          load(state(warp, lane), p, step + kWarps, lane);
        });
        accumulate_step<E, LOW, MT, NT>(
            block, [&](int lane) -> Sums<MT, NT>& { return state(warp, lane).sums; },
            [&](int lane) -> const Rows<E, MT>& { return now(lane).weight; },
            [&](int lane, int n, int half) { return now(lane).hidden[n][half]; });
      }
      block.each_lane([&](int lane) { store(shared, state(warp, lane).sums, warp, lane); });
      merge_rows(block, shared, state, warp);
    });
    block.sync();
    block.each_warp([&](int warp) { block.each_lane([&](int lane) { finish(shared, p, v0, 32 * warp + lane); }); });
  }

 private:
  ISOLOGIT_DEVICE static void begin(Lane& own, const Product& p, int v0, int warp, int lane) {
    clear(own.sums);
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        const int v = p.row_or_last(v0 + 16 * m + 8 * s + (lane >> 2));
        own.row[m][s] = static_cast<const typename E::Bits*>(p.weight) + v * p.weight_stride;
      }
    }
    load(own, p, warp, lane);
  }

  ISOLOGIT_DEVICE static void load(Lane& own, const Product& p, int step, int lane) {
    const int k = step * kStep + 8 * (lane & 3);
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) own.ahead.weight.row[m][s] = load_chunk<E, true, true>(own.row[m][s], k, p.size);
    }
    if (step * kStep >= p.size) return;
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t* at =
            p.words + static_cast<std::int64_t>(8 * n + (lane >> 2)) * p.depth + place_of(k + 4 * half, true);
        own.ahead.hidden[n][half] = {load_sixteen(at), LOW ? load_sixteen(at + p.plane) : Sixteen{}};
      }
    }
  }

  ISOLOGIT_DEVICE static void store(Shared& shared, const Sums<MT, NT>& sums, int warp, int lane) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) shared.c[warp][m][n][i][lane] = sums.c[m][n][i];
      }
    }
  }

  // What the four lanes of a weight row gathered, merged and stored.
  template <class State>
  ISOLOGIT_DEVICE static void merge_rows(Block& block, Shared& shared, State& state, int warp) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        block.reduce([&](int lane) -> Gathered& { return state(warp, lane).sums.gathered[m][s]; }, 1, 4,
                     [](Gathered& to, const Gathered& from) { merge(to, from); });
        block.each_lane([&](int lane) {
          if ((lane & 3) == 0) shared.gathered[warp][m][s][lane >> 2] = state(warp, lane).sums.gathered[m][s];
        });
      }
    }
  }

  // Adds up what the warps have and writes: thread by thread, in the order of c in shared memory.
  ISOLOGIT_DEVICE static void finish(const Shared& shared, const Product& p, int v0, int thread) {
    for (int j = thread; j < MT * NT * 4 * 32; j += Block::kThreads) {
      const int lane = j & 31;
      const int i = (j >> 5) & 3;
      const int n = (j >> 7) % NT;
      const int m = (j >> 7) / NT;
      const int row = 8 * n + 2 * (lane & 3) + (i & 1);
      const int v = v0 + 16 * m + 8 * (i >> 1) + (lane >> 2);
      if (row >= p.rows || v >= p.vocab) continue;
      double sum = 0.0;
      Gathered gathered = gathered_nothing();
      ISOLOGIT_UNROLL
      for (int w = 0; w < kWarps; ++w) {
        sum += shared.c[w][m][n][i][lane];
        merge(gathered, shared.gathered[w][m][i >> 1][lane >> 2]);
      }
      p.store(row, v,
              certified(unscale<E>(sum), p.facts[row], facts_of<E>(gathered, p.size), p.bias_of(v), p.size + kWarps + 2,
                        p.logits_type));
    }
  }
};

}  // namespace isologit::detail::cuda
