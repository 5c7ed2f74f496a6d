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
// Small weights, of fewer than 16384 rows, are few blocks, which all run at once: two a processor for 4096 rows. With 4
// warps these have 8 KB of the weight under way on a processor, and it takes 18 to keep the memory busy (132
// processors, 3.3 TB/s, 0.7 us); so they have 8 warps. And while Prepare ran and launches began, some 8 of 27 us for
// 4096 rows of H=4096, the memory stood still; so the first blocks begin beside Prepare and fetch what they read first.
// Predicted: 14 us there, and linears of an 8B layer 1.2 times torch's for 1.75. Not measured.
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
  static constexpr int kFirstBlocks = 512;  // as many as run at once, or more
  static constexpr int kAhead =
      64 * 1024;  // bytes: of 256 blocks what memory reads in 5 us, of all two thirds of an L2
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr bool kBeginsEarly = true;  // with the read of the weight
  static constexpr bool kLetsNextBegin = true;

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
      if (tile < kFirstBlocks) fetch_ahead(block, p, v0, warp);
      block.after_previous();
      block.each_lane([&](int lane) { load_hidden(state(warp, lane), p, warp, lane); });
      for (int step = warp; step < steps; step += kWarps) {
        typename Block::template PerLane<Step> now;
        block.each_lane([&](int lane) {
          now(lane) = state(warp, lane).ahead;
          load_weight(state(warp, lane), p, step + kWarps, lane);
          load_hidden(state(warp, lane), p, step + kWarps, lane);
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
    load_weight(own, p, warp, lane);
  }

  // What the block reads first of its weight rows.
  ISOLOGIT_DEVICE static void fetch_ahead(Block& block, const Product& p, int v0, int warp) {
    constexpr int kLine = 128 / static_cast<int>(sizeof(typename E::Bits));
    constexpr int kLines = kAhead / 128 / kWeightRows;  // of a row
    block.each_lane([&](int lane) {
      for (int i = 32 * warp + lane; i < kWeightRows * kLines; i += Block::kThreads) {
        const auto* row =
            static_cast<const typename E::Bits*>(p.weight) + p.row_or_last(v0 + i / kLines) * p.weight_stride;
        const int k = i % kLines * kLine;
        if (k < p.size) block.fetch_line(row + k);
      }
    });
  }

  ISOLOGIT_DEVICE static void load_weight(Lane& own, const Product& p, int step, int lane) {
    const int k = step * kStep + 8 * (lane & 3);
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) own.ahead.weight.row[m][s] = load_chunk<E, true, true>(own.row[m][s], k, p.size);
    }
  }

  // Zeros for rows that are none: their words are as many bytes as others'.
  ISOLOGIT_DEVICE static void load_hidden(Lane& own, const Product& p, int step, int lane) {
    if (step * kStep >= p.size) return;
    const int k = step * kStep + 8 * (lane & 3);
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      const int row = 8 * n + (lane >> 2);
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        own.ahead.hidden[n][half] = {};
        if (row >= p.rows) continue;
        const std::uint32_t* at = p.words + static_cast<std::int64_t>(row) * p.depth + place_of(k + 4 * half, true);
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
