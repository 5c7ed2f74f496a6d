// The one rounding of src/exact against rational arithmetic, at every kind of boundary of every format.
#include "exact/rounding.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::BigFloat;

// x, and what lies beside it by a part so small that only its presence counts: below the 64 leading bits, or just
// within them.
void expect_rounded_around(const FormatPair& pair, double x) {
  const BigFloat at = BigFloat::from_double(x);
  std::vector<BigFloat> numbers = {at};
  if (!at.is_zero()) {
    for (const std::int64_t below : {62, 63, 64, 65, 130, 300}) {
      const BigFloat part = BigFloat::power_of_two(detail::exact::highest_bit(at) - below);
      numbers.push_back(add(at, part));
      numbers.push_back(add(at, negate(part)));
    }
  }
  for (const BigFloat& number : numbers) {
    for (const BigFloat& either : {number, negate(number)}) {
      const double expected = oracle::round_to(rational(either), pair.oracle);
      const double found = detail::exact::round(either, pair.format);
      ASSERT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(expected))
          << pair.name << ' ' << std::hexfloat << x << ": " << found << ", expected " << expected;
    }
  }
}

// Numbers `steps` quarters of the last place of `significand` * 2^exponent above it: the number, a quarter, the
// midpoint, three quarters.
void expect_rounded_quarters(const FormatPair& pair, double significand, int exponent) {
  for (const double quarter : {0.0, 0.25, 0.5, 0.75}) {
    ASSERT_NO_FATAL_FAILURE(expect_rounded_around(pair, std::ldexp(significand + quarter, exponent)));
  }
}

// Every number of the two narrow formats and everything between it and the next.
TEST(Rounding, OfEveryNumberAndMidpointOfBf16AndF16) {
  for (const FormatPair& pair : {format_pairs[1], format_pairs[2]}) {
    const int first = pair.format.emin - (pair.format.precision - 1);  // exponent of the last place of subnormals
    const int normal = 1 << (pair.format.precision - 1);
    for (int subnormal = 0; subnormal < normal; ++subnormal) {
      ASSERT_NO_FATAL_FAILURE(expect_rounded_quarters(pair, subnormal, first));
    }
    // All significands at the exponents where something changes, some at all others.
    for (int exponent = pair.format.emin; exponent <= pair.format.emax + 1; ++exponent) {
      const bool edge = exponent <= pair.format.emin + 1 || exponent >= pair.format.emax - 1 || exponent == 0;
      for (int significand = normal; significand < 2 * normal; significand += edge ? 1 : normal / 4 - 1) {
        const int last = exponent - (pair.format.precision - 1);
        ASSERT_NO_FATAL_FAILURE(expect_rounded_quarters(pair, significand, last));
      }
    }
  }
}

TEST(Rounding, OfF32AndF64AtEveryKindOfBoundary) {
  oracle::Random random(1);
  // f64 has no quarters of a last place as doubles: they come as sums.
  for (const FormatPair& pair : {format_pairs[0], format_pairs[3]}) {
    const int emin = pair.format.emin;
    const int emax = pair.format.emax;
    const int bits = pair.format.precision;
    for (const int exponent : {emin - bits - 1, emin - bits, emin - bits + 1, emin - bits + 2, emin - 2, emin - 1, emin,
                               emin + 1, -1, 0, 1, emax - 1, emax}) {
      const BigFloat one = BigFloat::power_of_two(exponent);
      // In half last places: around the power of two itself, around the next one, and anywhere between.
      for (int i = 0; i < 60; ++i) {
        const std::int64_t last = std::max(exponent, emin) - (bits - 1);
        const std::int64_t most = (std::int64_t{1} << bits) - 1;
        const std::int64_t halves = i < 20 ? random.between(-4, 4) : random.between(0, 2 * most);
        BigFloat x = add(i < 30 ? one : scale_by_power_of_two(one, 1),
                         scale_by_power_of_two(BigFloat::from_double(static_cast<double>(halves)), last - 1));
        if (x.is_zero()) continue;
        for (const std::int64_t below : {0, 63, 64, 200}) {
          for (const bool up : {false, true}) {
            const BigFloat part = BigFloat::power_of_two(detail::exact::highest_bit(x) - bits - below);
            const BigFloat number = below == 0 ? x : add(x, up ? part : negate(part));
            const double expected = oracle::round_to(rational(number), pair.oracle);
            ASSERT_EQ(std::bit_cast<std::uint64_t>(detail::exact::round(number, pair.format)),
                      std::bit_cast<std::uint64_t>(expected))
                << pair.name << " 2^" << exponent << " halves " << halves << " below " << below;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace isologit::test
