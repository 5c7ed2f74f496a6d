// Numbers of any size against GMP's rational ones: every operation is exact, or drops exactly what it says.
#include "exact/bigfloat.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::BigFloat;
using oracle::Random;

// No zero limb at either end, and no negative zero.
bool is_trimmed(const BigFloat& x) {
  if (x.is_zero()) return !x.negative && x.exponent == 0;
  return x.limbs.front() != 0 && x.limbs.back() != 0;
}

// x without its bits below 2^(64 lowest).
mpq_class without_low_limbs(const BigFloat& x, std::int64_t lowest) {
  const mpq_class shifted = times_power_of_two(rational(x), -64 * lowest);
  mpz_class whole;
  mpz_tdiv_q(whole.get_mpz_t(), shifted.get_num_mpz_t(), shifted.get_den_mpz_t());
  return times_power_of_two(mpq_class(whole), 64 * lowest);
}

TEST(BigFloat, OfDoubles) {
  Random random(1);
  std::vector<double> values = {0.0,
                                -0.0,
                                1,
                                -1,
                                0x1p-1074,
                                -0x1.fffffffffffffp-1022,
                                0x1p-1022,
                                std::numeric_limits<double>::max(),
                                0x1.0000000000001p63,
                                0x1p64,
                                -0x1p-64};
  for (int i = 0; i < 2000; ++i) {
    values.push_back(random.sign() * std::ldexp(1 + random.uniform(), static_cast<int>(random.between(-1074, 1023))));
  }
  for (const double value : values) {
    const BigFloat x = BigFloat::from_double(value);
    EXPECT_TRUE(is_trimmed(x)) << value;
    EXPECT_EQ(rational(x), mpq_class(value));
  }
}

TEST(BigFloat, SumsProductsAndOrderAreExact) {
  Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const BigFloat a = random_bigfloat(random, 5);
    BigFloat b = random_bigfloat(random, 5);
    if (i % 8 == 0) {  // cancels but for the lowest limb, or wholly
      b = negate(a);
      if (i % 16 == 0 && !b.is_zero()) b.limbs.front() ^= random.next();
      detail::exact::trim(b);
    }
    const mpq_class x = rational(a);
    const mpq_class y = rational(b);
    const BigFloat sum = add(a, b);
    const BigFloat product = multiply(a, b);
    ASSERT_TRUE(is_trimmed(sum) && is_trimmed(product));
    ASSERT_EQ(rational(sum), x + y);
    ASSERT_EQ(rational(product), x * y);
    ASSERT_EQ(rational(negate(a)), -x);
    ASSERT_EQ(compare_magnitude(a, b), cmp(abs(x), abs(y)) < 0 ? -1 : cmp(abs(x), abs(y)) > 0 ? 1 : 0);
  }
}

TEST(BigFloat, ASumFromSomeLimbUpwardDropsWhatBothHaveBelowIt) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    const BigFloat a = random_bigfloat(random, 5);
    const BigFloat b = random_bigfloat(random, 5);
    if (a.is_zero() || b.is_zero()) continue;
    const std::int64_t lowest = random.between(-6, std::max(a.top(), b.top()));
    const BigFloat sum = add(a, b, lowest);
    ASSERT_TRUE(is_trimmed(sum));
    ASSERT_EQ(rational(sum), without_low_limbs(a, lowest) + without_low_limbs(b, lowest)) << lowest;
  }
}

TEST(BigFloat, ScalesByPowersOfTwo) {
  Random random(4);
  for (int i = 0; i < 5000; ++i) {
    const BigFloat x = random_bigfloat(random, 4);
    const std::int64_t shift = random.between(-200, 200);
    const BigFloat scaled = scale_by_power_of_two(x, shift);
    ASSERT_TRUE(is_trimmed(scaled));
    ASSERT_EQ(rational(scaled), times_power_of_two(rational(x), shift)) << shift;
    ASSERT_EQ(rational(BigFloat::power_of_two(shift)), power_of_two(shift)) << shift;
  }
}

TEST(BigFloat, TruncatesTowardZero) {
  Random random(5);
  for (int i = 0; i < 5000; ++i) {
    const BigFloat x = random_bigfloat(random, 6);
    const std::size_t limbs = 1 + random.below(6);
    const std::int64_t lowest = x.top() - static_cast<std::int64_t>(limbs);
    BigFloat shortened = x;
    const bool dropped = truncate(shortened, limbs);
    ASSERT_TRUE(is_trimmed(shortened));
    ASSERT_LE(shortened.limbs.size(), limbs);
    ASSERT_EQ(dropped, rational(shortened) != rational(x));
    if (dropped) {
      ASSERT_EQ(rational(shortened), without_low_limbs(x, lowest));
    }
  }
}

TEST(BigFloat, LowestAndHighestBit) {
  Random random(6);
  for (int i = 0; i < 5000; ++i) {
    const BigFloat x = random_bigfloat(random, 4);
    if (x.is_zero()) continue;
    const mpq_class size = abs(rational(x));
    const mpq_class units = times_power_of_two(size, -detail::exact::lowest_bit(x));
    ASSERT_EQ(units.get_den(), 1);
    ASSERT_NE(mpz_odd_p(units.get_num_mpz_t()), 0);
    ASSERT_LE(power_of_two(detail::exact::highest_bit(x)), size);
    ASSERT_GT(power_of_two(detail::exact::highest_bit(x) + 1), size);
  }
}

TEST(BigFloat, ApproximationsAreGoodTo52Bits) {
  Random random(7);
  for (int i = 0; i < 5000; ++i) {
    const BigFloat x = random_bigfloat(random, 4);
    if (x.is_zero()) continue;
    const detail::exact::Approximation near = approximate(x);
    ASSERT_GE(std::fabs(near.mantissa), 1);
    ASSERT_LE(std::fabs(near.mantissa), 2);
    const mpq_class value = times_power_of_two(mpq_class(near.mantissa), near.exponent);
    ASSERT_LE(abs(mpq_class(value / rational(x) - 1)), power_of_two(-52));
  }
}

}  // namespace
}  // namespace isologit::test
