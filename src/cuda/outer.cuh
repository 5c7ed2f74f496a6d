// The two products that gradients are: dhidden[n, k] = sum over v of dz[n, v] weight[v, k], and dweight[v, k] = sum
// over n of dz[n, v] hidden[n, k]; f64 sums of products of words (derivative.cuh). Those by bf16 are made in another
// way (part_products.cuh).
//
// Products of two words are exact in f64. Each side is off by up to 2^-21 of itself (f16 elements by nothing),
// each addition by 2^-53 of what is summed: in all below 2^-19 of sum |dz| |w|, a bound that CONTRACT.md 5 has at
// 2^-16. Specials go through as IEEE has it. The order of a sum is that of its depth, 16 at a time, whatever else is
// computed, and goes on where an earlier call left it: neither rows nor blocks of the vocabulary show.
//
// A block owns 64 by 64 results, a warp 16 by 64; both operands come to shared memory 32 of the depth at a time, as
// words, so that each element is widened once a block. Predicted: the rate of f64 products, as staged.cuh. Measured:
// not yet.
#pragma once

#include "cuda/derivative.cuh"
#include "cuda/gradient_sums.cuh"
#include "cuda/product.cuh"

namespace isologit::detail::cuda {

struct OuterProduct : GradientSums {
  const std::uint32_t* words;  // dz: [rows, depth], or by depth [depth, rows]
  std::int64_t words_stride;
  const void* other;  // [depth, cols]
  std::int64_t other_stride;
  bool aligned;  // of `other`: 16 bytes at a time
  int depth;
};

// BY_ROWS: dz lies by rows of the result, which are hidden rows (dhidden); else by depth, which is (dweight).
template <class BlockType, class E, bool BY_ROWS>
struct Outer {
  using Block = BlockType;
  using Args = OuterProduct;
  static constexpr int kBlocksPerProcessor = 2;
  static constexpr int kSide = 64;
  static constexpr int kDepth = 32;
  static constexpr int kPitch = kSide + 8;       // words; so that the lanes of a fragment meet in no bank
  static constexpr int kRowsPitch = kDepth + 4;  // the same, where the depth is adjacent
  static constexpr int kWords = kSide * kDepth / Block::kThreads;  // that a thread carries
  static constexpr int kChunks = kWords / 8;
  static_assert(Block::kWarps * 16 == kSide);

  struct Shared {
    std::uint32_t dz[BY_ROWS ? kSide * kRowsPitch : kDepth * kPitch];
    std::uint32_t other[kDepth * kPitch];
  };
  struct Lane {
    double c[8][4];
    std::uint32_t dz[kWords];
    Chunk<E> other[kChunks];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const OuterProduct& p, int row_tile, int col_tile) {
    typename Block::template PerThread<Lane> state;
    const int row0 = row_tile * kSide;
    const int col0 = col_tile * kSide;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        each_sum(state(warp, lane), row0 + 16 * warp, col0, lane,
                 [&](double& c, int row, int col) { c = p.before(row, col); });
        load(state(warp, lane), p, row0, col0, 0, 32 * warp + lane);
      });
    });
    for (int d0 = 0; d0 < p.depth; d0 += kDepth) {
      block.sync();  // all are done with the stage before
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) { put(shared, state(warp, lane), p, d0, 32 * warp + lane); });
      });
      block.sync();
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) { load(state(warp, lane), p, row0, col0, d0 + kDepth, 32 * warp + lane); });
        accumulate(block, shared, state, warp);
      });
    }
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        each_sum(state(warp, lane), row0 + 16 * warp, col0, lane,
                 [&](double c, int row, int col) { p.template keep<BY_ROWS>(row, col, c); });
      });
    });
  }

 private:
  // Calls use(c, row, col) for the sums of a lane.
  template <class Use>
  ISOLOGIT_DEVICE static void each_sum(Lane& own, int row0, int col0, int lane, Use use) {
    ISOLOGIT_UNROLL
    for (int n = 0; n < 8; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        use(own.c[n][i], row0 + (lane >> 2) + 8 * (i >> 1), col0 + 8 * n + 2 * (lane & 3) + (i & 1));
      }
    }
  }

  ISOLOGIT_DEVICE static void load(Lane& own, const OuterProduct& p, int row0, int col0, int d0, int thread) {
    if (d0 >= p.depth) return;
    ISOLOGIT_UNROLL
    for (int j = 0; j < kWords; ++j) {
      const int place = thread + j * Block::kThreads;
      const int row = row0 + (BY_ROWS ? place / kDepth : place % kSide);
      const int d = d0 + (BY_ROWS ? place % kDepth : place / kSide);
      const std::int64_t at = BY_ROWS ? row * p.words_stride + d : d * p.words_stride + row;
      own.dz[j] = row < p.rows && d < p.depth ? p.words[at] : 0;
    }
    ISOLOGIT_UNROLL
    for (int j = 0; j < kChunks; ++j) {
      const int place = thread + j * Block::kThreads;
      const int d = d0 + place / (kSide / 8);
      const int col = col0 + place % (kSide / 8) * 8;
      const bool there = d < p.depth && (BY_ROWS || p.upstreams[d].active != 0);
      const auto* row = static_cast<const typename E::Bits*>(p.other) + (there ? d : 0) * p.other_stride;
      const int size = there ? p.cols : 0;
      own.other[j] = p.aligned ? load_chunk<E, true>(row, col, size) : load_chunk<E, false>(row, col, size);
    }
  }

  ISOLOGIT_DEVICE static void put(Shared& shared, const Lane& own, const OuterProduct&, int, int thread) {
    ISOLOGIT_UNROLL
    for (int j = 0; j < kWords; ++j) {
      const int place = thread + j * Block::kThreads;
      const int at = BY_ROWS ? place / kDepth * kRowsPitch + place % kDepth : place / kSide * kPitch + place % kSide;
      shared.dz[at] = own.dz[j];
    }
    ISOLOGIT_UNROLL
    for (int j = 0; j < kChunks; ++j) {
      const int place = thread + j * Block::kThreads;
      std::uint32_t* to = &shared.other[place / (kSide / 8) * kPitch + place % (kSide / 8) * 8];
      ISOLOGIT_UNROLL
      for (int i = 0; i < 8; ++i) to[i] = word_of(static_cast<double>(own.other[j].value(i)));
    }
  }

  template <class State>
  ISOLOGIT_DEVICE static void accumulate(Block& block, const Shared& shared, State& state, int warp) {
    struct A {
      double a[8];
    };
    struct B {
      double b[4];
    };
    ISOLOGIT_UNROLL
    for (int half = 0; half < kDepth / 16; ++half) {
      typename Block::template PerLane<A> a;
      block.each_lane([&](int lane) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          ISOLOGIT_UNROLL
          for (int s = 0; s < 2; ++s) {
            const int row = 16 * warp + (lane >> 2) + 8 * s;
            const int d = 16 * half + (lane & 3) + 4 * i;
            a(lane).a[2 * i + s] = from_words(shared.dz[BY_ROWS ? row * kRowsPitch + d : d * kPitch + row], 0);
          }
        }
      });
      ISOLOGIT_UNROLL
      for (int n = 0; n < 8; ++n) {
        typename Block::template PerLane<B> b;
        block.each_lane([&](int lane) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int d = 16 * half + (lane & 3) + 4 * i;
            b(lane).b[i] = from_words(shared.other[d * kPitch + 8 * n + (lane >> 2)], 0);
          }
        });
        block.mma([&](int lane) -> double* { return state(warp, lane).c[n]; },
                  [&](int lane) -> const double* { return a(lane).a; },
                  [&](int lane) -> const double* { return b(lane).b; });
      }
    }
  }
};

// dbias[v] = sum over n of dz[n, v], a thread each.
struct ColumnSum {
  const std::uint32_t* words;  // [depth, cols]
  std::int64_t words_stride;
  int cols, depth;
  double* sums;  // [cols], between calls
  bool begins, ends;
  void* result;
  int result_type;
};
template <class BlockType>
struct SumColumns {
  using Block = BlockType;
  using Args = ColumnSum;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const ColumnSum& p, int tile, int) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const int col = tile * Block::kThreads + 32 * warp + lane;
        if (col >= p.cols) return;
        double sum = p.begins ? 0.0 : p.sums[col];
        for (int d = 0; d < p.depth; ++d) sum += from_words(p.words[d * p.words_stride + col], 0);
        if (p.ends) {
          store_result(p.result, p.result_type, col, sum != sum ? quiet_nan() : round_once(sum, p.result_type));
        } else {
          p.sums[col] = sum;
        }
      });
    });
  }
};

}  // namespace isologit::detail::cuda
