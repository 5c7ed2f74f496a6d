// Exact sums against GMP's.
#include "exact/superaccumulator.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::Superaccumulator;
using oracle::Random;

void expect_rounded(Superaccumulator& sum, const mpq_class& value) {
  EXPECT_EQ(sum.is_zero(), value == 0);
  for (const FormatPair& pair : format_pairs) {
    const double expected = oracle::round_to(value, pair.oracle);
    const double found = sum.round(pair.format);
    ASSERT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(expected))
        << pair.name << ": " << found << ", expected " << expected;
  }
}

// A product of two f32 numbers, of exponents up to `reach` from 0.
double random_product(Random& random, std::int64_t reach) {
  const auto element = [&] {
    const auto units = static_cast<double>(random.below(1U << 24));
    return random.sign() * std::ldexp(units, static_cast<int>(random.between(std::max<std::int64_t>(-reach, -149),
                                                                             std::min<std::int64_t>(reach, 104))));
  };
  return element() * element();
}

TEST(Superaccumulator, SumsOfProducts) {
  Random random(1);
  for (int i = 0; i < 3000; ++i) {
    Superaccumulator sum;
    mpq_class value = 0;
    const std::int64_t reach = random.below(2) == 0 ? 10 : 150;
    const std::uint64_t terms = 1 + random.below(30);
    for (std::uint64_t k = 0; k < terms; ++k) {
      const double term = random_product(random, reach);
      sum.add(term);
      value += mpq_class(term);
      if (random.below(4) == 0) sum.is_zero();  // asking changes nothing
    }
    ASSERT_NO_FATAL_FAILURE(expect_rounded(sum, value));
  }
}

TEST(Superaccumulator, CancelsToNothingAndToWhatIsLeft) {
  Random random(2);
  for (int i = 0; i < 2000; ++i) {
    Superaccumulator sum;
    std::vector<double> terms;
    for (std::uint64_t k = 0; k < 10; ++k) terms.push_back(random_product(random, 150));
    for (const double term : terms) sum.add(term);
    const double left = random.below(2) == 0 ? 0.0 : random_product(random, 150);
    sum.add(left);
    for (const double term : terms) sum.add(-term);
    ASSERT_NO_FATAL_FAILURE(expect_rounded(sum, mpq_class(left)));
  }
}

TEST(Superaccumulator, HoldsTheEndsOfItsRange) {
  for (const double sign : {1.0, -1.0}) {
    for (const double term :
         {0x1p-298, 0x1.8p-297, 0x1.fffffep127, 0x1.fffffcp254, 0x1.fffffc000002p255, 0x1.fffffffffffffp256}) {
      for (const int times : {1, 2, 3, 1000}) {
        Superaccumulator sum;
        for (int i = 0; i < times; ++i) sum.add(sign * term);
        ASSERT_NO_FATAL_FAILURE(expect_rounded(sum, times * mpq_class(sign * term)));
        sum.add(-sign * 0x1p-298);
        ASSERT_NO_FATAL_FAILURE(expect_rounded(sum, times * mpq_class(sign * term) - mpq_class(sign * 0x1p-298)));
      }
    }
  }
}

// Sums on the midpoint of two numbers of a format, and a unit of 2^-298 beside it.
TEST(Superaccumulator, MidpointsAndWhatLiesBesideThem) {
  Random random(3);
  for (const FormatPair& pair : format_pairs) {
    for (int i = 0; i < 500; ++i) {
      const int bits = pair.format.precision;
      const double odd = std::ldexp(static_cast<double>(2 * random.below(std::uint64_t{1} << (bits - 1)) + 1), 0);
      const auto exponent = static_cast<int>(
          random.between(std::max(pair.format.emin - bits, -290), std::min(pair.format.emax - bits, 190)));
      const double high = std::ldexp(std::floor(odd / 2), exponent + 1);
      const double low = std::ldexp(1.0, exponent);
      for (const double beside : {0.0, 0x1p-298, -0x1p-298}) {
        Superaccumulator sum;
        mpq_class value = 0;
        for (const double term : {high, low, beside}) {
          sum.add(term);
          value += mpq_class(term);
        }
        ASSERT_NO_FATAL_FAILURE(expect_rounded(sum, value));
      }
    }
  }
}

}  // namespace
}  // namespace isologit::test
