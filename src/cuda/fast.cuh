// The fast arithmetic: f32 sums of bf16 or f16 products, by the tensor cores' own.
//
// What is taken for granted of one multiplication of 16 of the depth, and looked at by fast_self_test.cuh: its result
// is within kMmaError of the real sum, relative to |c| + sum |h w|. Tensor cores align products and c to the greatest
// of them and cut off what lies 2 bits or more below the last place of f32 (of blocks of 16, sm_90; of 8 and 1 bit,
// sm_80), then cut the result (arXiv 2512.07004): 17 / 4 + 1 units of 2^-23, twice 9 / 2 + 1 in two blocks.
//
// Chains of four such multiplications, 64 of the depth, begin at 0, so that no sum drags its error along; chains are
// added in f32, to nearest, in their order. With n = size / 64 + 2 additions the logit is within
// (4 kMmaError (1 + 2^-10) + n 2^-24) of sum |h w| + |bias|, and size 2^-147 where f32 is subnormal. That order is one
// for any number of rows: no split of the depth, and every shape below does the same.
//
// A warp owns 32 weight rows, which it reads past the first-level cache one step ahead, and up to 64 hidden rows, which
// come from it. Predicted: the read of the weight for up to 32 rows; 2 to 3 times the time of bf16 products by wgmma
// for many. Measured: not yet.
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

template <class BlockType, class E, bool ALIGNED, int NT>
struct Fast {
  using Block = BlockType;
  using Args = Product;
  static constexpr int kBlocksPerProcessor = 2;
  static constexpr int MT = 2;
  static constexpr int kWeightRows = 16 * MT * Block::kWarps;
  static constexpr int kHiddenRows = 8 * NT;
  struct Shared {};
  struct Lane {
    float chain[MT][NT][4], total[MT][NT][4];
    Rows<E, MT> ahead;
    const typename E::Bits* row[MT][2];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Product& p, int row_block, int tile) {
    typename Block::template PerThread<Lane> state;
    const int row0 = row_block * kHiddenRows;
    block.each_warp([&](int warp) {
      const int v0 = (tile * Block::kWarps + warp) * 16 * MT;
      block.each_lane([&](int lane) { begin(state(warp, lane), p, v0, lane); });
      for (int k0 = 0; k0 < p.depth; k0 += kStep) {
        typename Block::template PerLane<Rows<E, MT>> now;
        block.each_lane([&](int lane) {
          now(lane) = state(warp, lane).ahead;
          load(state(warp, lane), p, k0 + kStep, lane);
        });
        multiply(block, state, now, p, warp, row0, k0);
        if ((k0 + kStep) % kChain == 0) {
          block.each_lane([&](int lane) { end_chain(state(warp, lane)); });
        }
      }
      block.each_lane([&](int lane) { finish(state(warp, lane), p, v0, row0, lane); });
    });
  }

 private:
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

  ISOLOGIT_DEVICE static void begin(Lane& own, const Product& p, int v0, int lane) {
    each([&](int m, int n, int i) { own.chain[m][n][i] = own.total[m][n][i] = 0.0F; });
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

  ISOLOGIT_DEVICE static void load(Lane& own, const Product& p, int k0, int lane) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        own.ahead.row[m][s] = load_chunk<E, ALIGNED>(own.row[m][s], k0 + 8 * (lane & 3), p.size);
      }
    }
  }

  // A lane's eight elements are places 2t, 2t + 1, 2t + 8 and 2t + 9 of two multiplications: the order within the depth
  // is free as long as both sides have the same.
  template <class State, class Now>
  ISOLOGIT_DEVICE static void multiply(Block& block, State& state, Now& now, const Product& p, int warp, int row0,
                                       int k0) {
    struct A {
      std::uint32_t a[4];
    };
    struct B {
      std::uint32_t b[2];
    };
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      typename Block::template PerLane<Sixteen> hidden;
      block.each_lane([&](int lane) {
        const int row = row0 + 8 * n + (lane >> 2);
        hidden(lane) = load_sixteen(p.words + static_cast<std::int64_t>(row) * (p.depth / 2) + k0 / 2 + 4 * (lane & 3));
      });
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename Block::template PerLane<B> b;
        block.each_lane([&](int lane) { b(lane) = {{hidden(lane).word[2 * half], hidden(lane).word[2 * half + 1]}}; });
        ISOLOGIT_UNROLL
        for (int m = 0; m < MT; ++m) {
          typename Block::template PerLane<A> a;
          block.each_lane([&](int lane) {
            ISOLOGIT_UNROLL
            for (int i = 0; i < 2; ++i) {
              ISOLOGIT_UNROLL
              for (int s = 0; s < 2; ++s) a(lane).a[2 * i + s] = now(lane).row[m][s].part[0].word[2 * half + i];
            }
          });
          block.template mma_f32<E>([&](int lane) -> float* { return state(warp, lane).chain[m][n]; },
                                    [&](int lane) -> const std::uint32_t* { return a(lane).a; },
                                    [&](int lane) -> const std::uint32_t* { return b(lane).b; });
        }
      }
    }
  }

  ISOLOGIT_DEVICE static void end_chain(Lane& own) {
    each([&](int m, int n, int i) {
      own.total[m][n][i] = own.total[m][n][i] + own.chain[m][n][i];
      own.chain[m][n][i] = 0.0F;
    });
  }

  ISOLOGIT_DEVICE static void finish(const Lane& own, const Product& p, int v0, int row0, int lane) {
    each([&](int m, int n, int i) {
      const int v = v0 + 16 * m + 8 * (i >> 1) + (lane >> 2);
      const int row = row0 + 8 * n + 2 * (lane & 3) + (i & 1);
      if (row >= p.rows || v >= p.vocab) return;
      const float z = own.total[m][n][i] + p.bias_of(v);
      p.store(row, v, z != z ? quiet_nan() : z + 0.0F);
    });
  }
};

}  // namespace isologit::detail::cuda
