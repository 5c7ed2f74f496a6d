// More terms than a digit of the register can take before it hands its excess on: 2^31 of the greatest size overflow 63
// bits.
#include <gtest/gtest.h>

#include <cmath>

#include "exact/numbers.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::test {
namespace {

TEST(Superaccumulator, TakesMoreTermsThanADigitHolds) {
  constexpr std::int64_t times = (std::int64_t{1} << 31) + 12345;
  // 48 bits set, so placed that the lower 32 fill a digit; and a little that must survive below.
  const double term = std::ldexp(0x1.fffffffffffep47, 32 * 10 - 298);
  for (const double sign : {1.0, -1.0}) {
    detail::exact::Superaccumulator sum;
    sum.add(0x1p-298);
    for (std::int64_t i = 0; i < times; ++i) sum.add(sign * term);
    const mpq_class value = mpq_class(times) * mpq_class(sign * term) + power_of_two(-298);
    for (const FormatPair& pair : format_pairs) {
      EXPECT_EQ(sum.round(pair.format), oracle::round_to(value, pair.oracle)) << pair.name;
    }
    // All of it taken away again, in greater steps: what is left is the little.
    for (std::int64_t left = times; left > 0;) {
      const std::int64_t step = std::min<std::int64_t>(left, 16);
      sum.add(-sign * term * static_cast<double>(step));
      left -= step;
    }
    EXPECT_EQ(sum.round(detail::exact::kF64), 0x1p-298);
  }
}

}  // namespace
}  // namespace isologit::test
