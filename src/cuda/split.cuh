// Logits of few hidden rows: the depth is split over the warps of a block.
//
// A block owns 16 MT weight rows and all (up to 8 NT) hidden rows; warp w takes the steps w, w + kWarps, ... of the
// depth, so that a block reads whole stretches of its weight rows together and weights of few rows still fill the
// device. The hidden rows, at most 32 of them, stay in the caches, in bf16 and f16 as they are; the weight passes by
// the first-level cache. Each warp loads one step ahead of both.
//
// Predicted: the read of the weight, for up to 16 rows: 0.29 ms at V=151936, H=4096, bf16; then the rate of f64
// products: 0.6 ms for 32 rows. Measured (H200, 2026-11-26), with hidden rows in words of 32 bits: 0.40 ms for 1 to 8
// rows, 0.58 for 16, 0.88 for 32. Not profiled; what the trials say: every block reads all hidden words from the
// caches, and the fewer blocks, the faster. With 16 weight rows a block the words of 8 hidden rows are as many bytes as
// the weight (0.44 ms at best), with 64 a quarter (0.40); for 16 and 32 rows 32 weight rows were best, and the words
// are as many bytes as the weight, and twice as many. More steps ahead, 8 warps, and the hidden rows by way of shared
// memory (Staged) were slower.
//
// Not measured, since then: hidden rows of 16 bits are half the bytes, for two or three instructions an element; 16
// rows read 1.9 GB from the caches for 2.5. Predicted: 0.45 to 0.5 ms for 16 rows, 0.7 for 32, where the products take
// 0.6. Small weights, of fewer than 16384 rows, are few blocks, which all run at once: two a processor for 4096 rows.
// With 4 warps these have 8 KB of the weight under way on a processor, and it takes 18 to keep the memory busy (132
// processors, 3.3 TB/s, 0.7 us); so they have 8. And while Prepare ran and launches began, some 8 of 27 us for 4096
// rows of H=4096, the memory stood still; so the first blocks begin beside Prepare and fetch what they read first.
// Predicted: 14 us there, and linears of an 8B layer 1.2 times torch's for 1.75.
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
  // Eight elements of a hidden row: as they are, of 16 bits, or in high words and low words.
  struct HiddenEight {
    Sixteen part[LOW ? 4 : 1];
  };
  struct Step {
    Rows<E, MT> weight;
    HiddenEight hidden[NT];
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
    const bool is_bf16 = p.hidden_type == kBf16;
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
        accumulate_step<E, MT, NT>(
            block, [&](int lane) -> Sums<MT, NT>& { return state(warp, lane).sums; },
            [&](int lane) -> const Rows<E, MT>& { return now(lane).weight; },
            [&](int lane, int n, int half) { return scaled(now(lane).hidden[n], half, is_bf16); });
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
      own.ahead.hidden[n] = {};
      const int row = 8 * n + (lane >> 2);
      if (row >= p.rows) continue;
      const std::int64_t at = static_cast<std::int64_t>(row) * p.depth + k;
      if (LOW) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i)
          own.ahead.hidden[n].part[i] = load_sixteen(p.words + at + i / 2 * p.plane + i % 2 * 4);
      } else {
        own.ahead.hidden[n].part[0] = load_sixteen(p.words + at / 2);
      }
    }
  }

  // Elements of 16 bits are widened as the weight's are, to h 2^-kBias, and then scaled by 2^kPackedScale: the product
  // with an element of the weight, itself scaled by 2^-kBias, is still a multiple of the least f64.
  static constexpr int kPackedScale = 1023;
  template <class H>
  static constexpr bool kIsExact = H::kLowest - H::kBias + kPackedScale + E::kLowest - E::kBias >= -1074;
  static_assert(kIsExact<Bf16> && kIsExact<F16>);

  ISOLOGIT_DEVICE static HiddenFour scaled(const HiddenEight& eight, int half, bool is_bf16) {
    if (LOW) return from_words<true>(eight.part[half], eight.part[LOW ? 2 + half : 0]);
    HiddenFour four;
    ISOLOGIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t word = eight.part[0].word[2 * half + i / 2];
      const std::uint32_t bits = i % 2 == 0 ? word & 0xFFFFU : word >> 16;
      four.value[i] = (is_bf16 ? Bf16::widen(bits) : F16::widen(bits)) * power_of_two(kPackedScale);
    }
    return four;
  }
  ISOLOGIT_DEVICE static double unscaled(double sum, bool is_bf16) {
    if (LOW) return unscale<E>(sum);
    return sum * power_of_two(E::kBias + (is_bf16 ? Bf16::kBias : F16::kBias) - kPackedScale);
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
              certified(unscaled(sum, p.hidden_type == kBf16), p.facts[row], facts_of<E>(gathered, p.size),
                        p.bias_of(v), p.size + kWarps + 2, p.logits_type));
    }
  }
};

}  // namespace isologit::detail::cuda
