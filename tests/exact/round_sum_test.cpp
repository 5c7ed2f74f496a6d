// The rounding tests of balls: what they conclude is right for every number of the ball, and they conclude where they
// must.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "exact/ball.hpp"
#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::Ball;
using detail::exact::BigFloat;
using detail::exact::Bound;
using oracle::Random;

// A number of the format, a midpoint of two, or one beside these, of all sizes down to below the subnormal ones and up
// to where infinity begins.
BigFloat near_boundary(Random& random, const detail::exact::Format& format) {
  const int bits = format.precision;
  const std::int64_t exponent = random.below(4) == 0 ? (random.below(2) == 0 ? format.emin - random.between(0, bits + 2)
                                                                             : format.emax - random.between(0, 1))
                                                     : random.between(-20, 20);
  const std::int64_t last = std::max<std::int64_t>(exponent, format.emin) - (bits - 1);
  const auto halves = static_cast<double>(random.below(8) == 0 ? (std::uint64_t{1} << (bits + 1)) - random.below(4)
                                                               : random.below(std::uint64_t{1} << (bits + 1)));
  BigFloat x = scale_by_power_of_two(BigFloat::from_double(halves), last - 1);
  if (random.below(3) == 0 && !x.is_zero()) {
    BigFloat part = BigFloat::power_of_two(detail::exact::lowest_bit(x) - random.between(1, 400));
    part.negative = random.below(2) == 0;
    x = add(x, part);
  }
  x.negative = random.below(2) == 0 && !x.is_zero();
  return x;
}

double rounded(const mpq_class& x, const FormatPair& pair) { return oracle::round_to(x, pair.oracle); }

// Its radius reaches from far below its distance to the boundary to far above it.
TEST(TryRound, IsTheRoundingOfBothEndsOrNothing) {
  Random random(1);
  int decided = 0;
  for (int i = 0; i < 40000; ++i) {
    const FormatPair& pair = format_pairs[random.below(4)];
    Ball ball{near_boundary(random, pair.format), {}};
    if (random.below(10) != 0) ball.radius = {1 + random.uniform(), -random.between(0, 500)};
    if (random.below(2) == 0 && !ball.middle.is_zero()) {
      ball.radius = Bound::power_of_two(detail::exact::lowest_bit(ball.middle));  // may end on the boundary itself
    }
    const double low = rounded(rational(ball.middle) - rational(ball.radius), pair);
    const double high = rounded(rational(ball.middle) + rational(ball.radius), pair);
    const std::optional<double> found = try_round(ball, pair.format);
    ASSERT_EQ(found.has_value(), low == high) << pair.name;
    if (found) {
      ASSERT_EQ(*found, low) << pair.name;
      ASSERT_FALSE(std::signbit(*found) && *found == 0);
      ++decided;
    }
  }
  EXPECT_GT(decided, 5000);
  EXPECT_LT(decided, 35000);
}

// Of exact + delta with delta of a known sign: right for every delta of the ball that has the sign, whatever its size.
TEST(TryRoundSum, IsRightForEveryDeltaOfTheSign) {
  Random random(2);
  int decided = 0;
  int tiny = 0;
  for (int i = 0; i < 40000; ++i) {
    const FormatPair& pair = format_pairs[random.below(4)];
    const BigFloat m = near_boundary(random, pair.format);
    const int sign = random.below(2) == 0 ? 1 : -1;
    const std::int64_t size = -random.between(0, random.below(2) == 0 ? 300 : 3000);
    Ball delta{BigFloat::power_of_two(size), Bound::power_of_two(size - random.between(-2, 100))};
    delta.middle.negative = sign < 0;
    const std::optional<double> found = try_round_sum(m, delta, sign, pair.format);
    // The ends of the part with the sign, itself open at 0.
    mpq_class nearest = abs(rational(delta.middle)) - rational(delta.radius);
    if (nearest <= 0) nearest = power_of_two(-6000);
    const mpq_class farthest = abs(rational(delta.middle)) + rational(delta.radius);
    const double low = rounded(rational(m) + sign * nearest, pair);
    const double high = rounded(rational(m) + sign * farthest, pair);
    if (found) {
      ASSERT_EQ(*found, low) << pair.name << " 2^" << size;
      ASSERT_EQ(*found, high) << pair.name << " 2^" << size;
      ++decided;
    }
    // It concludes where the whole ball rounds alike, and wherever delta is below every grain of m and the format.
    const mpq_class other = sign * (abs(rational(delta.middle)) - rational(delta.radius));
    if (rounded(rational(m) + other, pair) == high) {
      ASSERT_TRUE(found.has_value()) << pair.name << " 2^" << size;
    }
    const std::int64_t grain = std::min<std::int64_t>(pair.format.emin - pair.format.precision,
                                                      m.is_zero() ? 0 : detail::exact::lowest_bit(m));
    if (farthest < power_of_two(grain - 4)) {
      ASSERT_TRUE(found.has_value()) << pair.name << " 2^" << size;
      ++tiny;
    }
  }
  EXPECT_GT(decided, 10000);
  EXPECT_LT(decided, 39000);
  EXPECT_GT(tiny, 5000);
}

// A midpoint is left on the side that the sign says, and kept to the even neighbour without one, however small delta.
TEST(TryRoundSum, TheSignAloneSettlesAMidpoint) {
  const BigFloat m = BigFloat::from_double(1 + 0x1p-24);
  const float up = 1 + 0x1p-23F;
  for (const std::int64_t exponent : {-30, -100, -10000, -1000000}) {
    const Ball around_zero{{}, Bound::power_of_two(exponent)};
    const Ball above{BigFloat::power_of_two(exponent), {}};
    if (exponent < -200) {  // below the granularity the ball need not tell the sign
      EXPECT_EQ(try_round_sum(m, around_zero, 1, detail::exact::kF32), up);
      EXPECT_EQ(try_round_sum(m, around_zero, -1, detail::exact::kF32), 1.0F);
    }
    EXPECT_EQ(try_round_sum(m, above, 1, detail::exact::kF32), up);
    EXPECT_EQ(try_round_sum(m, negate(above), -1, detail::exact::kF32), 1.0F);
  }
  EXPECT_EQ(try_round_sum(m, {}, 0, detail::exact::kF32), 1.0F);
  EXPECT_EQ(try_round_sum(m, {{}, {1, 3}}, 0, detail::exact::kF32), 1.0F);  // a delta of 0 needs no ball
  // Nothing, or half of the smallest subnormal number, and something beside it.
  const BigFloat half = BigFloat::power_of_two(-150);
  const Ball little{BigFloat::power_of_two(-5000), {}};
  EXPECT_EQ(try_round_sum({}, little, 1, detail::exact::kF32), 0.0);
  EXPECT_EQ(try_round_sum(half, little, 1, detail::exact::kF32), 0x1p-149);
  EXPECT_EQ(try_round_sum(half, {}, 0, detail::exact::kF32), 0.0);
  EXPECT_EQ(try_round_sum(negate(half), negate(little), -1, detail::exact::kF32), -0x1p-149);
  // Where f32 rounds to infinity.
  const BigFloat limit = add(BigFloat::power_of_two(128), negate(BigFloat::power_of_two(103)));
  EXPECT_EQ(try_round_sum(limit, negate(little), -1, detail::exact::kF32), 0x1.fffffep127);
  EXPECT_EQ(try_round_sum(limit, {}, 0, detail::exact::kF32), HUGE_VAL);
}

}  // namespace
}  // namespace isologit::test
