// Looks at what the kernels with products by wgmma take for granted: that of bytes are those of whole numbers, with
// registers and shared memory as wgmma.cuh says they lie, two groups under way at a time; and that in f32 a chain of
// four multiplications has the very bits that mma.sync gives it, whatever its products are.
#pragma once

#include "cuda/fast_self_test.cuh"
#include "cuda/fast_wgmma.cuh"

namespace isologit::detail::cuda {

template <class BlockType>
struct WgmmaSelfTest {
  using Block = BlockType;
  using Args = SelfTesting;
  static constexpr bool kByWgmma = true;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kRows = 64;
  static constexpr int kGroups = 2;
  enum Kind : int { kRandom, kLeast, kGreatest, kKinds };

  struct Shared {
    std::uint32_t hidden[kGroups][2][kRows][4];  // by halves (place_of)
  };
  struct Lane {
    std::int32_t c[8][4], few[4][4];
    std::uint32_t a[kGroups][4];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const SelfTesting& args, int kind, int) {
    typename Block::template PerThread<Lane> state;
    block.each_warp(
        [&](int warp) { block.each_lane([&](int lane) { fill(shared, state(warp, lane), kind, warp, lane); }); });
    block.publish_copies();
    block.sync();
    block.each_warp([&](int warp) {
      ISOLOGIT_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        const std::uint64_t hidden =
            descriptor(block.address(shared.hidden[group]), sizeof shared.hidden[group][0], 128, Swizzle::kNone);
        const auto a = [&](int lane) -> const std::uint32_t* { return state(warp, lane).a[group]; };
        block.begin_products(warp);
        block.template wgmma_bytes<8>(
            warp, [&](int lane) -> std::int32_t* { return state(warp, lane).c[0]; }, a, hidden);
        block.template wgmma_bytes<4>(
            warp, [&](int lane) -> std::int32_t* { return state(warp, lane).few[0]; }, a, hidden);
        block.end_products(warp);
      }
      block.template wait_products<0>(warp);
      block.each_lane([&](int lane) {
        Lane& own = state(warp, lane);
        block.template hold<32>(own.c[0]);
        block.template hold<16>(own.few[0]);
        ISOLOGIT_UNROLL
        for (int i = 0; i < 32; ++i) {
          const int row = 16 * warp + 8 * (i / 2 % 2) + (lane >> 2);
          const int column = 8 * (i / 4) + 2 * (lane & 3) + i % 2;
          const std::int32_t sum = sum_of(row, column, kind);
          if (own.c[i / 4][i % 4] != sum) block.count(*args.broken);
          if (i < 16 && own.few[i / 4][i % 4] != sum) block.count(*args.broken);
        }
      });
    });
  }

 private:
  // Four bytes of a weight row (side 0) or hidden row, from a place on.
  ISOLOGIT_DEVICE static std::uint32_t four(int side, int row, int group, int place, int kind) {
    if (kind != kRandom) return side == 0 ? 0xFFFFFFFFU : kind == kLeast ? 0x80808080U : 0x7F7F7F7FU;
    std::uint64_t x = static_cast<std::uint64_t>(((side * kRows + row) * kGroups + group) * 32 + place + 1);
    x *= 0x9E3779B97F4A7C15U;
    return static_cast<std::uint32_t>((x ^ (x >> 29)) * 0xBF58476D1CE4E5B9U >> 32);
  }
  // What a sum begins with.
  ISOLOGIT_DEVICE static std::int32_t first_of(int row, int column) { return 1000 * row - 7 * column; }

  ISOLOGIT_DEVICE static void fill(Shared& shared, Lane& own, int kind, int warp, int lane) {
    ISOLOGIT_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      for (int i = 32 * warp + lane; i < 8 * kRows; i += Block::kThreads) {
        shared.hidden[group][i / 4 / kRows][i / 4 % kRows][i % 4] =
            four(1, i / 4 % kRows, group, 16 * (i / 4 / kRows) + 4 * (i % 4), kind);
      }
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        own.a[group][i] = four(0, 16 * warp + 8 * (i % 2) + (lane >> 2), group, 16 * (i / 2) + 4 * (lane & 3), kind);
      }
    }
    ISOLOGIT_UNROLL
    for (int i = 0; i < 32; ++i) {
      own.c[i / 4][i % 4] = first_of(16 * warp + 8 * (i / 2 % 2) + (lane >> 2), 8 * (i / 4) + 2 * (lane & 3) + i % 2);
      if (i < 16) own.few[i / 4][i % 4] = own.c[i / 4][i % 4];
    }
  }
  ISOLOGIT_DEVICE static std::int32_t sum_of(int row, int column, int kind) {
    std::int32_t sum = first_of(row, column);
    ISOLOGIT_ROLLED
    for (int k = 0; k < 32 * kGroups; ++k) {
      const std::uint32_t a = four(0, row, k / 32, k % 32 & ~3, kind) >> 8 * (k % 4) & 0xFFU;
      const std::uint32_t b = four(1, column, k / 32, k % 32 & ~3, kind) >> 8 * (k % 4) & 0xFFU;
      sum += static_cast<std::int32_t>(a) * (static_cast<std::int32_t>(b ^ 0x80U) - 128);
    }
    return sum;
  }
};

// Chains of four as in fast_wgmma.cuh and fast.cuh, of the same elements at the same places.
template <class BlockType, class E>
struct FastWgmmaSelfTest {
  using Cases = FastCases<E>;
  using Block = BlockType;
  using Args = SelfTesting;
  static constexpr bool kByWgmma = true;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kRounds = 32;
  static constexpr int kKinds = Cases::kGreat + 1;
  static constexpr int kWeightRows = 64;
  static constexpr int kColumns = 128;
  static_assert(Block::kWarps == 4);

  struct Shared {  // piece i of row r, 16 bytes, lies at i ^ r % 8
    alignas(1024) std::uint32_t row[kWeightRows + kColumns][8][4];
  };
  struct Lane {
    float c[kColumns / 2], other[4];
    std::uint32_t a[4], b[2];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const SelfTesting& args, int kind, int round) {
    typename Block::template PerThread<Lane> state;
    block.each_warp([&](int warp) { block.each_lane([&](int lane) { fill(shared, round, kind, 32 * warp + lane); }); });
    block.publish_copies();
    block.sync();
    block.each_warp([&](int warp) {
      begin_wgmma_chain<E>(
          block, warp, [&](int lane) -> float* { return state(warp, lane).c; }, block.address(shared.row),
          block.address(shared.row[kWeightRows]));
      block.template wait_products<0>(warp);
      block.each_lane([&](int lane) { block.template hold<kColumns / 2>(state(warp, lane).c); });
      ISOLOGIT_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) compare(block, state, args, warp, n, round, kind);
    });
  }

 private:
  ISOLOGIT_DEVICE static std::uint32_t two(int side, int row, int k, int round, int kind) {
    return Cases::element(side, row, k, round, kind) | Cases::element(side, row, k + 1, round, kind) << 16;
  }
  ISOLOGIT_DEVICE static void fill(Shared& shared, int round, int kind, int thread) {
    for (int i = thread; i < 32 * (kWeightRows + kColumns); i += Block::kThreads) {
      const int row = i / 32;
      const int side = row < kWeightRows ? 0 : 1;
      shared.row[row][i / 4 % 8 ^ row % 8][i % 4] = two(side, row - side * kWeightRows, 2 * (i % 32), round, kind);
    }
  }

  // The chains of eight hidden rows again, by mma.sync.
  template <class State>
  ISOLOGIT_DEVICE static void compare(Block& block, State& state, const SelfTesting& args, int warp, int n, int round,
                                      int kind) {
    block.each_lane([&](int lane) {
      for (int i = 0; i < 4; ++i) state(warp, lane).other[i] = 0.0F;
    });
    for (int part = 0; part < kChain / 16; ++part) {
      block.each_lane([&](int lane) {
        Lane& own = state(warp, lane);
        for (int i = 0; i < 2; ++i) {
          const int k = 16 * part + 2 * (lane & 3) + 8 * i;
          for (int s = 0; s < 2; ++s) own.a[2 * i + s] = two(0, 16 * warp + 8 * s + (lane >> 2), k, round, kind);
          own.b[i] = two(1, 8 * n + (lane >> 2), k, round, kind);
        }
      });
      block.template mma_f32<E>([&](int lane) -> float* { return state(warp, lane).other; },
                                [&](int lane) -> const std::uint32_t* { return state(warp, lane).a; },
                                [&](int lane) -> const std::uint32_t* { return state(warp, lane).b; });
    }
    block.each_lane([&](int lane) {
      Lane& own = state(warp, lane);
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float one = 0.0F + own.c[4 * n + i];
        const float other = 0.0F + own.other[i];
        const bool same = bit_cast<std::uint32_t>(one) == bit_cast<std::uint32_t>(other);
        if (!same && !(one != one && other != other)) block.count(*args.broken);
      }
    });
  }
};

}  // namespace isologit::detail::cuda
