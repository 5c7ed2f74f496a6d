// Looks at what fast.cuh takes for granted of the tensor cores' f32 sums: each within kMmaError, and the same wherever
// in the tile it stands. Hashed numbers: of like sizes, of one sign (where what is cut off adds up), over 80 binades,
// nearly cancelling, with a c far above or below the products; and subnormal elements, which count in full.
#pragma once

#include "cuda/fast.cuh"
#include "cuda/self_test.cuh"

namespace isologit::detail::cuda {

// Elements to be summed. The last two kinds are for chains (wgmma_self_test.cuh): multiplications whose products are of
// other sizes than those before, and sums that overflow.
template <class E>
struct FastCases {
  enum Kind : int { kNear, kOneSign, kWide, kCancelling, kSubnormal, kDrifting, kGreat };

  ISOLOGIT_DEVICE static std::uint32_t hash(int side, int row, int k, int round, int kind) {
    std::uint64_t x = static_cast<std::uint64_t>((((side * 128 + row) * 64 + k) * 32 + round) * 8 + kind + 1);
    x *= 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    return static_cast<std::uint32_t>(x >> 24);
  }
  // The bits of the element of a weight row (side 0) or hidden row (1).
  ISOLOGIT_DEVICE static std::uint32_t element(int side, int row, int k, int round, int kind) {
    const int from = kind == kCancelling ? k & ~1 : k;
    const std::uint32_t bits = hash(side, row, from, round, kind);
    constexpr int kField = 15 - E::kFraction;
    constexpr int kMiddle = (1 << (kField - 1)) - 1;
    const int spread = kind != kWide ? 4 : kField == 5 ? 12 : 20;
    int exponent = kMiddle - spread + static_cast<int>(bits % static_cast<std::uint32_t>(2 * spread));
    if (kind == kDrifting) exponent += 5 * (k / 16 * 5 % 4) - 8;
    if (kind == kGreat) exponent = kMiddle + (kField == 5 ? 12 : 62) + static_cast<int>(bits % 3);
    if (kind == kSubnormal) exponent = side == 0 ? 0 : kField == 5 ? kMiddle : kMiddle + 60;
    std::uint32_t sign = kind == kOneSign ? 0 : bits >> 30 & 1U;
    std::uint32_t fraction = bits >> 8 & ((1U << E::kFraction) - 1);
    if (kind == kOneSign) fraction |= 1U;
    if (kind == kCancelling && (k & 1) != 0) {
      sign ^= side == 0 ? 1U : 0U;
      fraction ^= side == 0 && (bits >> 27 & 7U) == 0 ? 1U : 0U;
    }
    return sign << 15 | static_cast<std::uint32_t>(exponent) << E::kFraction | fraction;
  }
};

template <class BlockType, class E>
struct FastSelfTest {
  using Cases = FastCases<E>;
  using Block = BlockType;
  using Args = SelfTesting;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kRounds = 16;
  static constexpr int kKinds = Cases::kSubnormal + 1;
  struct Shared {};
  struct Lane {
    std::uint32_t a[4], b[2];
    float c[4], before[4];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const SelfTesting& args, int kind, int) {
    block.each_warp([&](int warp) {
      for (int round = warp; round < kRounds; round += Block::kWarps) {
        typename Block::template PerLane<Lane> lanes;
        block.each_lane([&](int lane) { fill(lanes(lane), round, kind, lane); });
        block.template mma_f32<E>([&](int lane) -> float* { return lanes(lane).c; },
                                  [&](int lane) -> const std::uint32_t* { return lanes(lane).a; },
                                  [&](int lane) -> const std::uint32_t* { return lanes(lane).b; });
        block.each_lane([&](int lane) {
          for (int i = 0; i < 4; ++i) {
            const int row = (lane >> 2) + 8 * (i >> 1);
            const int column = 2 * (lane & 3) + (i & 1);
            if (is_wrong(lanes(lane).c[i], lanes(lane).before[i], row, column, round, kind)) block.count(*args.broken);
          }
        });
        look_at_places(block, args, lanes);
      }
    });
  }

 private:
  // The last row and the last column are the first again, so that places can be compared.
  ISOLOGIT_DEVICE static std::uint32_t element(int side, int row, int k, int round, int kind) {
    return Cases::element(side, row == (side == 0 ? 15 : 7) ? 0 : row, k, round, kind);
  }
  ISOLOGIT_DEVICE static float c_of(int row, int column, int round, int kind) {
    if (kind == Cases::kSubnormal) return 0.0F;
    if (row == 15) row = 0;
    if (column == 7) column = 0;
    const std::uint32_t bits = Cases::hash(2, row, column, round, kind);
    const auto exponent = static_cast<std::uint32_t>(127 - 24 + static_cast<int>(bits % 40));
    const std::uint32_t sign = kind == Cases::kOneSign ? 0 : bits >> 31;
    return bit_cast<float>(sign << 31 | exponent << 23 | (bits * 2654435761U >> 9 | 1U));
  }

  ISOLOGIT_DEVICE static void fill(Lane& own, int round, int kind, int lane) {
    const int g = lane >> 2;
    const int t = lane & 3;
    const auto two = [&](int side, int row, int i) {
      const int k = 2 * t + 8 * i;
      return element(side, row, k, round, kind) | element(side, row, k + 1, round, kind) << 16;
    };
    for (int i = 0; i < 2; ++i) {
      own.a[2 * i] = two(0, g, i);
      own.a[2 * i + 1] = two(0, g + 8, i);
      own.b[i] = two(1, g, i);
    }
    for (int i = 0; i < 4; ++i) own.c[i] = own.before[i] = c_of(g + 8 * (i >> 1), 2 * t + (i & 1), round, kind);
  }

  ISOLOGIT_DEVICE static bool is_wrong(float sum, float before, int row, int column, int round, int kind) {
    PairSum exact = empty_pair_sum();
    add_product(exact, static_cast<double>(before));
    for (int k = 0; k < 16; ++k) {
      add_product(exact, static_cast<double>(E::value(element(0, row, k, round, kind))) *
                             static_cast<double>(E::value(element(1, column, k, round, kind))));
    }
    return !(fabs((static_cast<double>(sum) - exact.s) - exact.e) <= kMmaError * exact.m);
  }

  // c[0][0] is that of lane 0; of row 15 and column 7 lane 31 has the last.
  template <class Lanes>
  ISOLOGIT_DEVICE static void look_at_places(Block& block, const SelfTesting& args, Lanes& lanes) {
    typename Block::template PerLane<float> corner;
    block.each_lane([&](int lane) {
      corner(lane) = lane == 0 ? lanes(lane).c[0] : lane == 31 ? lanes(lane).c[3] : 0.0F;
    });
    block.reduce([&](int lane) -> float& { return corner(lane); }, 31, 32,
                 [](float& to, const float& from) { to -= from; });
    block.each_lane([&](int lane) {
      if (lane == 0 && corner(lane) != 0.0F) block.count(*args.broken);
    });
  }
};

}  // namespace isologit::detail::cuda
