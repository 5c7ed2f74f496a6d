// pi, sine and cosine against MPFR.
#include "exact/trigonometry.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "exact/constants.hpp"
#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::Ball;
using detail::exact::BigFloat;
using oracle::Random;
using oracle::Real;

// The ball holds x, which is known to 2^-precision of itself.
bool holds_real(const Ball& ball, Real& x) {
  Real below(x.precision()), above(x.precision());
  mpfr_set(below.get(), x.get(), MPFR_RNDN);
  mpfr_set(above.get(), x.get(), MPFR_RNDN);
  mpfr_nextbelow(below.get());
  mpfr_nextabove(above.get());
  return mpfr_lessequal_p(real(lower(ball)).get(), above.get()) != 0 &&
         mpfr_greaterequal_p(real(upper(ball)).get(), below.get()) != 0;
}

TEST(Trigonometry, PiAtEveryPrecision) {
  for (std::size_t limbs = 1; limbs <= 40; ++limbs) {
    const Ball found = detail::exact::pi(limbs);
    Real pi(64 * static_cast<mpfr_prec_t>(limbs) + 300);
    mpfr_const_pi(pi.get(), MPFR_RNDN);
    ASSERT_TRUE(holds_real(found, pi)) << limbs;
    ASSERT_LT(found.radius.exponent, 72 - 64 * static_cast<std::int64_t>(limbs));
  }
}

TEST(Trigonometry, SineAndCosine) {
  Random random(1);
  for (int i = 0; i < 3000; ++i) {
    const auto exponent = static_cast<int>(random.between(-80, 47));
    BigFloat angle = BigFloat::from_double(std::ldexp(1 + random.uniform(), exponent) * (i % 2 == 0 ? 1 : -1));
    // Angles of many bits, and those next to a multiple of pi / 2.
    if (i % 3 == 0) angle = add(angle, BigFloat::power_of_two(exponent - 90));
    if (i % 5 == 0) {
      const double k = std::ldexp(std::floor(std::ldexp(1 + random.uniform(), 30)), -1);
      angle = multiply(detail::exact::pi(3).middle, BigFloat::from_double(k));
      detail::exact::truncate(angle, 2);
    }
    const std::size_t limbs = 1 + random.below(6);
    const auto [sine, cosine] = detail::exact::sine_cosine(angle, limbs);
    Real at = real(angle);
    Real s(64 * static_cast<mpfr_prec_t>(limbs) + 400), c(64 * static_cast<mpfr_prec_t>(limbs) + 400);
    mpfr_sin_cos(s.get(), c.get(), at.get(), MPFR_RNDN);
    ASSERT_TRUE(holds_real(sine, s)) << i;
    ASSERT_TRUE(holds_real(cosine, c)) << i;
    ASSERT_LT(sine.radius.exponent, 16 - 64 * static_cast<std::int64_t>(limbs));
    ASSERT_LT(cosine.radius.exponent, 16 - 64 * static_cast<std::int64_t>(limbs));
  }
  const auto [sine, cosine] = detail::exact::sine_cosine({}, 2);
  EXPECT_TRUE(sine.middle.is_zero());
  EXPECT_TRUE(holds(cosine, mpq_class(1)));
}

}  // namespace
}  // namespace isologit::test
