// Square roots, and roundings of expressions with one, against MPFR and over the rationals.
#include "exact/root.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::Ball;
using detail::exact::BigFloat;
using oracle::Random;

TEST(Root, BallsHoldTheRootsOfTheirNumbers) {
  Random random(1);
  for (int i = 0; i < 3000; ++i) {
    Ball x = random_ball(random, 4);
    if (x.middle.is_zero()) continue;
    x.middle.negative = false;
    const std::size_t limbs = 1 + random.below(6);
    const Ball found = detail::exact::sqrt(x, limbs);
    const mpq_class point = point_of(random, x);
    // |sqrt(point) - middle| <= radius, by squares.
    const mpq_class low = rational(found.middle) - rational(found.radius);
    const mpq_class high = rational(found.middle) + rational(found.radius);
    ASSERT_LE(low > 0 ? mpq_class(low * low) : mpq_class(0), point);
    ASSERT_GE(high * high, point);
    if (x.is_exact() && !found.is_exact()) {
      ASSERT_LT(found.radius.exponent - detail::exact::highest_bit(found.middle), 70 - 64 * static_cast<long>(limbs));
    }
  }
}

// shift ± sqrt(numerator / denominator) by intervals; exact cases are told apart by the caller.
double expected(const mpq_class& shift, bool negative, const mpq_class& square, oracle::Format format) {
  return oracle::decide([&](mpfr_prec_t precision) {
    oracle::Interval root(square, precision);
    mpfr_sqrt(root.lo.get(), root.lo.get(), MPFR_RNDD);
    mpfr_sqrt(root.hi.get(), root.hi.get(), MPFR_RNDU);
    return oracle::round_sum(shift, negative ? -root : root, 0, format);
  });
}

TEST(Root, RandomExpressionsAreRoundedOnce) {
  Random random(2);
  for (int i = 0; i < 3000; ++i) {
    const FormatPair& format = format_pairs[random.below(3)];
    const auto any = [&] { return std::ldexp(1 + random.uniform(), static_cast<int>(random.between(-40, 40))); };
    const double shift = random.below(3) == 0 ? 0 : any() * (random.below(2) == 0 ? 1 : -1);
    const double numerator = any(), denominator = any();
    const bool negative = random.below(2) == 0;
    const double found =
        detail::exact::round_with_root(BigFloat::from_double(shift), negative, BigFloat::from_double(numerator),
                                       BigFloat::from_double(denominator), format.format);
    ASSERT_EQ(found, expected(shift, negative, mpq_class(numerator) / mpq_class(denominator), format.oracle));
  }
}

// The root is a boundary between two roundings, exactly, or one part in 2^400 beside it.
TEST(Root, BoundariesAreDecidedByComparingSquares) {
  Random random(3);
  for (int i = 0; i < 2000; ++i) {
    const FormatPair& format = format_pairs[random.below(3)];
    const int bits = format.format.precision;
    const double boundary =
        std::ldexp(std::ldexp(1, bits) + 2 * static_cast<double>(random.below(1U << (bits - 1))) + 1,
                   static_cast<int>(random.between(-13, 3)) - bits);
    const double shift = random.below(2) == 0 ? 0 : std::ldexp(1, static_cast<int>(random.between(-9, 3)));
    const bool negative = boundary < shift;
    const mpq_class root = abs(mpq_class(boundary) - mpq_class(shift));
    const double denominator = 1 + 2 * static_cast<double>(random.below(1000));
    const auto big = [](const mpq_class& x) { return BigFloat::from_double(x.get_d()); };
    const BigFloat r = big(root);
    ASSERT_EQ(rational(r), root);
    BigFloat numerator = multiply(multiply(r, r), BigFloat::from_double(denominator));
    const int side = static_cast<int>(random.below(3)) - 1;
    BigFloat nudge = BigFloat::power_of_two(-400);
    nudge.negative = (side < 0) != negative;
    if (side != 0) numerator = add(numerator, nudge);
    const double found = detail::exact::round_with_root(BigFloat::from_double(shift), negative, numerator,
                                                        BigFloat::from_double(denominator), format.format);
    const mpq_class nudged = mpq_class(boundary) + side * power_of_two(-300);
    ASSERT_EQ(found, oracle::round_to(nudged, format.oracle)) << format.name << ' ' << side;
  }
}

}  // namespace
}  // namespace isologit::test
