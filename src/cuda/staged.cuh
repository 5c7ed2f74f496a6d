// Logits of many hidden rows: blocks of 64 of them pass through shared memory.
//
// A block owns 16 MT weight rows a warp and 64 hidden rows. Hidden rows come to shared memory 64 of the depth at a
// time, kStages deep, by copies that run beside the arithmetic; weight rows come straight to the registers of the warp
// that owns them, one step of the depth ahead, and are never stored wider than they are. Blocks that share weight rows
// follow one another, so those come from the second-level cache for all but the first.
// Predicted: 2 rows vocab size / the rate of f64 products, 67 TFLOP/s on an H200: 1.2 ms for 64 rows of V=151936,
// H=4096, and 19.0 ms for 1024. Measured (2026-11-26): 1.72 and 24.8, 46 and 51 TFLOP/s. Not profiled; probably the
// widening and gathering of the weight, again for every 64 rows, which takes turns with the products. With the weight
// past the first-level cache and the words in the order of Split: 2.08 and 28.3; two loads, of neighbouring steps,
// share a cache line of the weight, which that cache has to keep.
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

template <class BlockType, class E, bool LOW, bool ALIGNED>
struct Staged {
  using Block = BlockType;
  using Args = Product;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int MT = 1;  // 64 registers of sums; two tiles would not leave enough for the rest
  static constexpr int NT = 8;
  static constexpr int kWeightRows = 16 * MT * kWarps;
  static constexpr int kHiddenRows = 8 * NT;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kBlocksPerProcessor = 2;  // its products are eight instructions, with more alive between them
#else
  static constexpr int kBlocksPerProcessor = ALIGNED ? 3 : 2;
#endif
  static constexpr int kStages = LOW ? 2 : 3;  // of two planes three would not fit every card
  static constexpr int kDepth = kDepthGroup;   // of a stage
  static constexpr int kSteps = kDepth / kStep;
  static constexpr int kPlanes = LOW ? 2 : 1;
  static constexpr int kPitch = kDepth + 4;  // words; 16 bytes more than the data: the lanes meet in no bank

  struct Shared {
    alignas(16) std::uint32_t words[kStages][kPlanes][kHiddenRows][kPitch];
  };
  struct Lane {
    Sums<MT, NT> sums;
    Rows<E, MT> ahead;
    const typename E::Bits* row[MT][2];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int row_block, int tile) {
    if (p.repair && !is_open_tile(block, p, row_block * kHiddenRows, tile * kWeightRows)) return;
    typename Block::template PerThread<Lane> state;
    const int row0 = row_block * kHiddenRows;
    const int stages = p.depth / kDepth;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { begin(state(warp, lane), p, (tile * kWarps + warp) * 16 * MT, lane); });
    });
    ISOLOGIT_UNROLL
    for (int s = 0; s < kStages - 1; ++s) fetch(block, shared, p, row0, s, stages);
    for (int stage = 0; stage < stages; ++stage) {
      block.template wait<kStages - 2>();
      block.sync();  // this stage is there for all, and all are done with the one before it
      fetch(block, shared, p, row0, stage + kStages - 1, stages);
      const auto& words = shared.words[stage % kStages];
      block.each_warp([&](int warp) {
        ISOLOGIT_ROLLED  // more than one step at once and the registers do not suffice
            for (int d = 0; d < kSteps; ++d) {
          typename Block::template PerLane<Rows<E, MT>> now;
          block.each_lane([&](int lane) {
            now(lane) = state(warp, lane).ahead;
            load(state(warp, lane), p, stage * kSteps + d + 1, lane);
          });
          accumulate_step<E, MT, NT>(
              block, [&](int lane) -> Sums<MT, NT>& { return state(warp, lane).sums; },
              [&](int lane) -> const Rows<E, MT>& { return now(lane); },
              [&](int lane, int n, int half) {
                const int row = 8 * n + (lane >> 2);
                const int at = d * kStep + 8 * (lane & 3) + 4 * half;
                return from_words<LOW>(*reinterpret_cast<const Sixteen*>(&words[0][row][at]),
                                       *reinterpret_cast<const Sixteen*>(&words[kPlanes - 1][row][at]));
              });
        }
      });
    }
    block.each_warp([&](int warp) { finish(block, state, p, warp, (tile * kWarps + warp) * 16 * MT, row0); });
  }

  static constexpr int kOpen = 4;  // so many open logits of a tile's first row, and the tile is worth its products

 private:
  ISOLOGIT_DEVICE static bool is_open_tile(Block& block, const Product& p, int row, int v0) {
    int open = 0;
    block.each_warp([&](int) {
      open = 0;
      for (int i = 0; i < kWeightRows; i += 32) {
        std::uint32_t which = block.ballot([&](int lane) {
          const int v = v0 + i + lane;
          return v < p.vocab && is_open_result(p.logits, p.logits_type, row * p.logits_stride + v);
        });
        for (; which != 0; which &= which - 1) ++open;
      }
    });
    return open >= (p.vocab - v0 < kOpen ? p.vocab - v0 : kOpen);
  }

  // Begins the copy of a stage; a group is ended also where there is none, so that they can be counted.
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, const Product& p, int row0, int stage, int stages) {
    constexpr int kPieces = kDepth / 4;  // of a row, 16 bytes each
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (stage < stages) {
          for (int i = 32 * warp + lane; i < kPlanes * kHiddenRows * kPieces; i += Block::kThreads) {
            const int piece = i % kPieces;
            const int row = i / kPieces % kHiddenRows;
            const int plane = i / kPieces / kHiddenRows;
            block.copy(&shared.words[stage % kStages][plane][row][4 * piece],
                       p.words + plane * p.plane + static_cast<std::int64_t>(row0 + row) * p.depth + stage * kDepth +
                           4 * piece);
          }
        }
        block.end_group();
      });
    });
  }

  ISOLOGIT_DEVICE static void begin(Lane& own, const Product& p, int v0, int lane) {
    clear(own.sums);
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        const int v = p.row_or_last(v0 + 16 * m + 8 * s + (lane >> 2));
        own.row[m][s] = static_cast<const typename E::Bits*>(p.weight) + v * p.weight_stride;
      }
    }
    load(own, p, 0, lane);
  }

  ISOLOGIT_DEVICE static void load(Lane& own, const Product& p, int step, int lane) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        own.ahead.row[m][s] = load_chunk<E, ALIGNED>(own.row[m][s], step * kStep + 8 * (lane & 3), p.size);
      }
    }
  }

  template <class State>
  ISOLOGIT_DEVICE static void finish(Block& block, State& state, const Product& p, int warp, int v0, int row0) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        block.reduce([&](int lane) -> Gathered& { return state(warp, lane).sums.gathered[m][s]; }, 1, 4,
                     [](Gathered& to, const Gathered& from) { merge(to, from); });
        block.each_lane([&](int lane) {
          const int v = v0 + 16 * m + 8 * s + (lane >> 2);
          if (v >= p.vocab) return;
          const RowFacts facts = facts_of<E>(state(warp, lane).sums.gathered[m][s], p.size);
          const float bias = p.bias_of(v);
          ISOLOGIT_UNROLL
          for (int n = 0; n < NT; ++n) {
            ISOLOGIT_UNROLL
            for (int i = 0; i < 2; ++i) {
              const int row = row0 + 8 * n + 2 * (lane & 3) + i;
              if (row >= p.rows) continue;
              const double sum = unscale<E>(state(warp, lane).sums.c[m][n][2 * s + i]);
              p.store(row, v, certified(sum, p.facts[row], facts, bias, p.size + 2, p.logits_type));
            }
          }
        });
      }
    }
  }
};

}  // namespace isologit::detail::cuda
