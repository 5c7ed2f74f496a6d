// Proves on the device that quotients and roots in f64 are those of IEEE 754, rounded to nearest, which norms,
// transforms and pairs of doubles take for granted.
//
// What a quotient or a root leaves is exact by one fused multiply-add, and tells whether a neighbour would be nearer.
#pragma once

#include "cuda/self_test.cuh"

namespace isologit::detail::cuda {

// The last place of x, a normal number.
ISOLOGIT_DEVICE double last_place(double x) {
  return power_of_two(static_cast<int>(bit_cast<std::uint64_t>(x) >> 52 & 0x7FFU) - 1023 - 52);
}

// Whether q is a / b rounded to nearest: half a last place off at most. No quotient of two doubles is half way.
ISOLOGIT_DEVICE bool is_quotient(double q, double a, double b) {
  return fabs(fma(-q, b, a)) < 0.5 * last_place(q) * fabs(b);
}

// Whether s is the root of a to nearest: a lies between the squares of s - u / 2 and s + u / 2, of which u^2 / 4 is
// less than the last place of a - s^2.
ISOLOGIT_DEVICE bool is_root(double s, double a) {
  const double left = fma(-s, s, a);
  return left <= last_place(s) * s && left > -last_place(s) * s;
}

template <class BlockType>
struct QuotientSelfTest {
  using Block = BlockType;
  using Args = SelfTesting;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kNumbers = 64;  // of a lane
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const SelfTesting& args, int, int) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int i = 0; i < kNumbers; ++i) {
          const auto at = static_cast<std::uint64_t>(Block::kThreads * i + 32 * warp + lane);
          const double a = number(2 * at);
          const double b = number(2 * at + 1);
          if (!is_quotient(a / b, a, b) || !is_root(sqrt(a), a)) block.count(*args.broken);
        }
      });
    });
  }

 private:
  // Between 2^-400 and 2^400, so that what is left is no subnormal; every other one with few bits, near whose
  // quotients and roots the hard cases are.
  ISOLOGIT_DEVICE static double number(std::uint64_t i) {
    const std::uint64_t x = hashed(i + 1);
    const std::uint64_t fraction = (x & 0xFFFFFFFFFFFFFU) & ((i & 2) != 0 ? 0xFFFFF00000000U : ~std::uint64_t{0});
    return bit_cast<double>(fraction | (623 + (x >> 53) % 800) << 52);
  }
};

}  // namespace isologit::detail::cuda
