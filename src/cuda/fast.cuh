// The fast arithmetic: f32 sums of bf16 or f16 products, by the tensor cores' own.
//
// What is taken for granted of one multiplication of 16 of the depth, and looked at by fast_self_test.cuh: its result
// is within kMmaError of the real sum, relative to |c| + sum |h w|. Tensor cores align products and c to the greatest
// of them and cut off what lies 2 bits or more below the last place of f32 (of blocks of 16, sm_90; of 8 and 1 bit,
// sm_80), then cut the result (arXiv 2512.07004): 17 / 4 + 1 units of 2^-23, twice 9 / 2 + 1 in two blocks.
//
// Chains of four such multiplications, 64 of the depth, begin at 0, so that no sum drags its error along; chains are
// added in f32, to nearest, in their order; a multiplication takes 16 elements that follow one another. With n = size /
// 64 + 2 additions the logit is within (4 kMmaError (1 + 2^-10) + n 2^-24) of sum |h w| + |bias|, and size 2^-147 where
// f32 is subnormal. That order is one for any number of rows: no split of the depth, and every shape below does the
// same.
//
// 64 of the depth of weight and hidden rows pass through shared memory at a time, kStages deep, by copies that run
// beside the arithmetic; a warp owns 32 weight and up to 64 hidden rows, which it loads as tiles (ldmatrix). Predicted:
// the read of the weight for up to 64 rows, 0.42 ms at V=151936, H=4096; 1.6 times the time of bf16 products by wgmma
// for many, which is what mma.sync has of its rate.
//
// Measured (H100, 2026-11-27) of the kernel before this one, which loaded 16 bytes of a row at a time: 0.45 ms up to 8
// rows, 0.47 for 32, 0.51 for 64, 5.5 for 1024, 3.3 times torch's bf16: twice what was predicted for many, for which
// fast_wgmma.cuh is. With the hidden rows straight from the caches: 0.60, 0.70, 0.80 and 7.8. That kernel's loop had
// beside a warp's 64 multiplications of a stage 395 instructions (sm_90; of sm_80 403), 216 (228) of them moves:
// registers of A came from loads of two rows, and chains were set to 0. This one has 147 (144) and no move: 64
// additions, 24 loads of tiles, 8 copies, and what makes addresses. Predicted: two warps a scheduler issue 422
// instructions, not 918, in the 820 clocks that their multiplications take at that rate. It has not run on a device.
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

inline constexpr double kMmaError = 11 * 0x1p-23;
inline constexpr int kChain = 64;  // of the depth; kDepthGroup is a multiple
static_assert(kDepthGroup % kChain == 0 && kChain == 2 * kStep);

// What a logit may be off by, where sum |h w| + |bias| is `magnitude`.
inline double fast_bound(std::int64_t size, double magnitude) {
  const double additions = static_cast<double>(size) / kChain + 2;
  return magnitude * (4 * kMmaError * (1 + 0x1p-10) + additions * 0x1p-24) + static_cast<double>(size) * 0x1p-147;
}

// Hidden rows of the weight's type, copied: their rows up to a multiple of 64, their depth of kDepthGroup, with zeros.
struct Packing {
  const void* hidden;
  std::int64_t hidden_stride;  // in elements
  int rows, size, depth;
  std::uint32_t* words;  // two elements each
};
template <class BlockType>
struct Pack {
  using Block = BlockType;
  using Args = Packing;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Packing& p, int row, int) {
    const auto* from = static_cast<const std::uint16_t*>(p.hidden) + row * p.hidden_stride;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int i = 32 * warp + lane; i < p.depth / 2; i += Block::kThreads) {
          const auto element = [&](int k) { return row < p.rows && k < p.size ? std::uint32_t{from[k]} : 0U; };
          p.words[static_cast<std::int64_t>(row) * (p.depth / 2) + i] = element(2 * i) | element(2 * i + 1) << 16;
        }
      });
    });
  }
};

// Stores the logit of a sum of products, if it is one of a row and id that there are.
ISOLOGIT_DEVICE void store_fast(const Product& p, int row, int v, float sum) {
  if (row >= p.rows || v >= p.vocab) return;
  const float z = sum + p.bias_of(v);
  p.store(row, v, z != z ? quiet_nan() : z + 0.0F);
}

// WN warps side by side share weight rows, so that a block owns 32 kWarps / WN of them and 8 NT WN hidden rows.
template <class BlockType, class E, bool ALIGNED, int NT, int WN>
struct Fast {
  using Block = BlockType;
  using Args = Product;
  static constexpr int MT = 2;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kWeightRows = 16 * MT * kWarps / WN;
  static constexpr int kHiddenRows = 8 * NT * WN;
  static constexpr int kBlocksPerProcessor = kWarps == 8 ? 1 : NT == 8 ? 2 : 3;
  static constexpr int kStages = kWarps == 8 ? 3 : 4;  // 96 KiB of the greatest: it fits every card
  static constexpr int kDepth = kChain;                // of a stage
  static constexpr int kRowsAtATime = Block::kThreads / 8;
  static constexpr int kWeightCopies = kWeightRows / kRowsAtATime;
  static constexpr int kHiddenCopies = (kHiddenRows + kRowsAtATime - 1) / kRowsAtATime;

  // Piece i of row r, 16 bytes, lies at i ^ r % 8. Eight lanes that write together write the pieces of one row, which
  // are all 32 banks. A load of a tile reads one piece i of eight rows from a multiple of eight on: i ^ r % 8 is each
  // of 0 to 7 once, so all banks again.
  struct Stage {
    Sixteen weight[8 * kWeightRows];
    Sixteen hidden[8 * kHiddenRows];
  };
  struct Shared {
    Stage stage[kStages];
  };
  struct Chain {
    float c[MT][NT][4];
  };
  struct Lane {
    float total[MT][NT][4];
    const typename E::Bits* weight[kWeightCopies];  // what the thread copies next
    const std::uint32_t* hidden[kHiddenCopies];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int row_block, int tile) {
    typename Block::template PerThread<Lane> state;
    const int row0 = row_block * kHiddenRows;
    const int v0 = tile * kWeightRows;
    const int stages = p.depth / kDepth;
    block.each_warp(
        [&](int warp) { block.each_lane([&](int lane) { begin(state(warp, lane), p, v0, row0, 32 * warp + lane); }); });
    ISOLOGIT_UNROLL
    for (int s = 0; s < kStages - 1; ++s) fetch(block, shared, state, p, s, stages);
    for (int stage = 0; stage < stages; ++stage) {
      block.template wait<kStages - 2>();
      block.sync();  // this stage is there for all, and all are done with the one before it
      fetch(block, shared, state, p, stage + kStages - 1, stages);
      block.each_warp([&](int warp) {
        typename Block::template PerLane<Chain> chain;
        block.each_lane([&](int lane) { chain(lane) = {}; });
        ISOLOGIT_UNROLL
        for (int step = 0; step < kDepth / kStep; ++step) {
          multiply(block, shared.stage[stage % kStages], chain, step, warp);
        }
        block.each_lane([&](int lane) {
          Lane& own = state(warp, lane);
          each([&](int m, int n, int i) { own.total[m][n][i] = own.total[m][n][i] + chain(lane).c[m][n][i]; });
        });
      });
    }
    block.each_warp([&](int warp) {
      block.each_lane(
          [&](int lane) { finish(state(warp, lane), p, v0 + warp / WN * 16 * MT, row0 + warp % WN * 8 * NT, lane); });
    });
  }

 private:
  ISOLOGIT_DEVICE static int place_in(int row, int piece) { return 8 * row + (piece ^ (row & 7)); }

  ISOLOGIT_DEVICE static void begin(Lane& own, const Product& p, int v0, int row0, int thread) {
    const int k = 8 * (thread % 8);
    each([&](int m, int n, int i) { own.total[m][n][i] = 0.0F; });
    ISOLOGIT_UNROLL
    for (int j = 0; j < kWeightCopies; ++j) {
      const int v = p.row_or_last(v0 + kRowsAtATime * j + thread / 8);
      own.weight[j] =
          static_cast<const typename E::Bits*>(p.weight) + v * p.weight_stride + (ALIGNED && k < p.size ? k : 0);
    }
    ISOLOGIT_UNROLL
    for (int j = 0; j < kHiddenCopies; ++j) {
      const int row = row0 + kRowsAtATime * j + thread / 8;
      own.hidden[j] = p.words + static_cast<std::int64_t>(row < p.rows ? row : p.rows - 1) * (p.depth / 2) + k / 2;
    }
  }

  template <class Use>
  ISOLOGIT_DEVICE static void each(Use use) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) use(m, n, i);
      }
    }
  }

  // Begins the copy of a stage; a group is ended also where there is none, so that they can be counted. A thread copies
  // the same piece of several rows.
  template <class State>
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, State& state, const Product& p, int stage,
                                    int stages) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const int piece = lane % 8;
        const int first = (32 * warp + lane) / 8;
        const int k = stage * kDepth + 8 * piece;
        if (stage < stages) {
          Lane& own = state(warp, lane);
          Stage& to = shared.stage[stage % kStages];
          const int next = k + kDepth < p.size ? kDepth : 0;  // no pointer past the row's end, where nothing is read
          ISOLOGIT_UNROLL
          for (int j = 0; j < kWeightCopies; ++j) {
            Sixteen* place = &to.weight[place_in(first, piece) + 8 * kRowsAtATime * j];
            if (ALIGNED) {
              block.copy_or_zero(place, own.weight[j], k < p.size);
              own.weight[j] += next;
            } else {
              *place = load_chunk<E, false>(own.weight[j], k, p.size).part[0];
            }
          }
          ISOLOGIT_UNROLL
          for (int j = 0; j < kHiddenCopies; ++j) {
            if (kHiddenRows % kRowsAtATime != 0 && kRowsAtATime * j + first >= kHiddenRows) continue;
            block.copy(&to.hidden[place_in(first, piece) + 8 * kRowsAtATime * j], own.hidden[j]);
            own.hidden[j] += kDepth / 2;
          }
        }
        block.end_group();
      });
    });
  }

  // Of 32 of the depth two multiplications, each of 16 that follow one another.
  template <class ChainOf>
  ISOLOGIT_DEVICE static void multiply(Block& block, const Stage& from, ChainOf& chain, int step, int warp) {
    struct A {
      std::uint32_t a[MT][2][4];
    };
    struct B {
      std::uint32_t b[4];  // two of each multiplication
    };
    typename Block::template PerLane<A> a;
    ISOLOGIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      ISOLOGIT_UNROLL
      for (int m = 0; m < MT; ++m) {
        block.template load_tiles<false>([&](int lane) -> std::uint32_t* { return a(lane).a[m][half]; },
                                         [&](int lane) {
                                           const int row = 16 * MT * (warp / WN) + lane % 16;
                                           const int piece = 4 * step + 2 * half + lane / 16;
                                           return &from.weight[place_in(row, piece) + 8 * 16 * m];
                                         });
      }
    }
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      typename Block::template PerLane<B> b;
      block.template load_tiles<false>([&](int lane) -> std::uint32_t* { return b(lane).b; },
                                       [&](int lane) {
                                         const int row = 8 * NT * (warp % WN) + lane % 8;
                                         const int piece = 4 * step + lane / 8;
                                         return &from.hidden[place_in(row, piece) + 8 * 8 * n];
                                       });
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        ISOLOGIT_UNROLL
        for (int m = 0; m < MT; ++m) {
          block.template mma_f32<E>([&](int lane) -> float* { return chain(lane).c[m][n]; },
                                    [&](int lane) -> const std::uint32_t* { return a(lane).a[m][half]; },
                                    [&](int lane) -> const std::uint32_t* { return b(lane).b + 2 * half; });
        }
      }
    }
  }

  ISOLOGIT_DEVICE static void finish(const Lane& own, const Product& p, int v0, int row0, int lane) {
    each([&](int m, int n, int i) {
      const int v = v0 + 16 * m + 8 * (i >> 1) + (lane >> 2);
      const int row = row0 + 8 * n + 2 * (lane & 3) + (i & 1);
      store_fast(p, row, v, own.total[m][n][i]);
    });
  }
};

}  // namespace isologit::detail::cuda
