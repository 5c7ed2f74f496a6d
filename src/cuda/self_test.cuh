// Proves on the device what the certificate takes for granted: products of f64 whose sums are rounded to nearest, with
// subnormal operands and sums counted in full.
//
// Rows of hashed numbers pass through the same step as logits. In the kinds kNear, kWide and kSubnormal, of terms that
// nearly cancel, each sum is compared with one in pairs of doubles, against the bound. In kSparse only one term of each
// mma is not zero, so that no order is free: the sum must be that of fused multiply-adds, bit for bit. In kLeast
// most products and sums are subnormal, which rounds none of them, as those of the least elements in Split are.
#pragma once

#include "cuda/pair_sum.cuh"
#include "cuda/product.cuh"

namespace isologit::detail::cuda {

struct SelfTesting {
  std::uint32_t* broken;  // counts the sums that are wrong
};

// Bits that look random.
ISOLOGIT_DEVICE std::uint64_t hashed(std::uint64_t x) {
  x *= 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  return x ^ (x >> 27);
}

template <class BlockType>
struct SelfTest {
  using Block = BlockType;
  using Args = SelfTesting;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kSteps = 8;
  enum Kind : int { kNear, kWide, kSubnormal, kSparse, kLeast, kKinds };
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const SelfTesting& args, int kind, int) {
    block.each_warp([&](int warp) {
      typename Block::template PerLane<Sums<1, 1>> sums;
      block.each_lane([&](int lane) { clear(sums(lane)); });
      const int first_row = 16 * warp;
      for (int step = 0; step < kSteps; ++step) {
        typename Block::template PerLane<Rows<Bf16, 1>> rows;
        block.each_lane([&](int lane) { rows(lane) = weight_rows(first_row, step, kind, lane); });
        accumulate_step<Bf16, 1, 1>(
            block, [&](int lane) -> Sums<1, 1>& { return sums(lane); },
            [&](int lane) -> const Rows<Bf16, 1>& { return rows(lane); },
            [&](int lane, int, int half) { return hidden_four(step, kind, lane, half); });
      }
      block.each_lane([&](int lane) {
        for (int i = 0; i < 4; ++i) {
          const int v = first_row + 8 * (i >> 1) + (lane >> 2);
          if (is_wrong(sums(lane).c[0][0][i], 2 * (lane & 3) + (i & 1), v, kind)) block.count(*args.broken);
        }
      });
    });
  }

 private:
  // Bits of the bf16 element of a row at a pair of places; of the later place the last bit is now and then another.
  ISOLOGIT_DEVICE static std::uint32_t element(int row, int k, int kind) {
    const std::uint64_t x = hashed(static_cast<std::uint64_t>(row * 4096 + (k >> 1) * 8 + kind));
    const auto bits = static_cast<std::uint32_t>(x >> 20);
    const std::uint32_t exponent = kind == kNear                          ? 120 + bits % 16
                                   : kind == kSubnormal || kind == kLeast ? bits % 3
                                   : kind == kSparse                      ? 100 + bits % 40
                                                                          : 87 + bits % 80;
    const std::uint32_t off = (k & 1) != 0 && (bits >> 24 & 7U) == 0 ? 1 : 0;
    return ((bits >> 8 & 0x7FU) ^ off) | exponent << 7 | (bits >> 15 & 1U) << 15;
  }
  // Both places of a pair are opposite in a weight row and equal in a hidden row.
  ISOLOGIT_DEVICE static std::uint32_t weight_bits(int row, int k, int kind) {
    return element(row + 100, k, kind) ^ ((k & 1) != 0 ? 0x8000U : 0U);
  }
  ISOLOGIT_DEVICE static bool is_zero(int k, int kind) {  // all but one place of each half of a step
    return kind == kSparse && (k & (kStep - 1) & ~4) != (8 * (k / kStep) + k / kStep / 2) % kStep;
  }
  ISOLOGIT_DEVICE static double hidden_value(int row, int k, int kind) {
    if (is_zero(k, kind)) return 0.0;
    return static_cast<double>(Bf16::value(element(row, k & ~1, kind == kSubnormal ? kWide : kind)));
  }
  ISOLOGIT_DEVICE static double product(int row, int v, int k, int kind) {
    return hidden_value(row, k, kind) * static_cast<double>(Bf16::value(weight_bits(v, k, kind)));
  }

  ISOLOGIT_DEVICE static Rows<Bf16, 1> weight_rows(int first_row, int step, int kind, int lane) {
    Rows<Bf16, 1> rows = {};
    for (int s = 0; s < 2; ++s) {
      for (int j = 0; j < 8; ++j) {
        const int k = step * kStep + 8 * (lane & 3) + j;
        rows.row[0][s].part[0].word[j / 2] |= weight_bits(first_row + 8 * s + (lane >> 2), k, kind) << 16 * (j % 2);
      }
    }
    return rows;
  }
  static constexpr int kLeastScale = 127;  // Split's of bf16
  ISOLOGIT_DEVICE static HiddenFour hidden_four(int step, int kind, int lane, int half) {
    HiddenFour four;
    for (int i = 0; i < 4; ++i) {
      const double h = hidden_value(lane >> 2, step * kStep + 8 * (lane & 3) + 4 * half + i, kind);
      four.value[i] = h * power_of_two(kind == kLeast ? kLeastScale : kHiddenBias);
    }
    return four;
  }

  ISOLOGIT_DEVICE static bool is_wrong(double sum, int row, int v, int kind) {
    PairSum exact = empty_pair_sum();
    double chain = 0.0;
    for (int k = 0; k < kSteps * kStep; ++k) {
      add_product(exact, product(row, v, k, kind));
      chain += product(row, v, k, kind);  // exact products: as a fused multiply-add
    }
    if (kind == kLeast) return sum * power_of_two(kHiddenBias - kLeastScale) != chain || exact.m == 0.0;
    if (kind == kSparse) return sum != chain || exact.m == 0.0;
    return !(fabs((sum - exact.s) - exact.e) <= kSteps * kStep * 0x1.01p-53 * exact.m);
  }
};

}  // namespace isologit::detail::cuda
