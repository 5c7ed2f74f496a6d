// exp, log and softcap against MPFR.
#include "exact/elementary.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "exact/constants.hpp"
#include "exact/numbers.hpp"
#include "oracle/interval.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {
namespace {

using detail::exact::Ball;
using detail::exact::BigFloat;
using detail::exact::bits_of;
using oracle::Random;
using oracle::Real;

using Function = int (*)(mpfr_ptr, mpfr_srcptr, mpfr_rnd_t);

// The ball holds an increasing function's values at both ends of x.
testing::AssertionResult holds_values(const Ball& found, const Ball& x, Function function) {
  const auto precision = static_cast<mpfr_prec_t>(64 * (found.middle.limbs.size() + 6));
  Real low(precision), high(precision);
  function(low.get(), real(detail::exact::lower(x)).get(), MPFR_RNDU);
  function(high.get(), real(detail::exact::upper(x)).get(), MPFR_RNDD);
  if (mpfr_lessequal_p(real(detail::exact::lower(found)).get(), low.get()) == 0) {
    return testing::AssertionFailure() << "the value at the lower end lies below the ball";
  }
  if (mpfr_greaterequal_p(real(detail::exact::upper(found)).get(), high.get()) == 0) {
    return testing::AssertionFailure() << "the value at the upper end lies above the ball";
  }
  return testing::AssertionSuccess();
}

// The exponent of radius / middle.
std::int64_t relative_width(const Ball& x) {
  if (x.is_exact()) return std::numeric_limits<std::int64_t>::min();
  return x.radius.exponent + 1 - detail::exact::highest_bit(x.middle);
}

// Exact, or known to `bits` of itself.
Ball known_to(double x, std::int64_t bits) {
  Ball ball = Ball::exact(x);
  if (bits > 0) ball.radius = detail::exact::Bound::of(ball.middle) * detail::exact::Bound::power_of_two(-bits);
  return ball;
}

double random_double(Random& random, std::int64_t lowest, std::int64_t highest) {
  return std::ldexp(1 + random.uniform(), static_cast<int>(random.between(lowest, highest)));
}

TEST(Elementary, Ln2AtEveryPrecision) {
  for (std::size_t limbs = 1; limbs <= 40; ++limbs) {
    const Ball found = detail::exact::ln2(limbs);
    Real exact_value(static_cast<mpfr_prec_t>(bits_of(limbs) + 300));
    mpfr_const_log2(exact_value.get(), MPFR_RNDN);
    EXPECT_NE(mpfr_less_p(real(detail::exact::lower(found)).get(), exact_value.get()), 0) << limbs;
    EXPECT_NE(mpfr_greater_p(real(detail::exact::upper(found)).get(), exact_value.get()), 0) << limbs;
    EXPECT_LT(relative_width(found), -bits_of(limbs) + 64) << limbs;
    EXPECT_LE(found.middle.limbs.size(), limbs);
  }
}

TEST(Elementary, ExpOfExactNumbers) {
  Random random(1);
  for (int i = 0; i < 6000; ++i) {
    const std::size_t limbs = 1 + random.below(i % 50 == 0 ? 40 : 6);
    // Up to 2^61, the far end of what the gaps of f32 numbers need; and down to nothing.
    const double x = random.sign() * (i % 3 == 0 ? random_double(random, -300, 60) : random_double(random, -6, 10));
    const Ball found = detail::exact::exp(Ball::exact(x), limbs);
    ASSERT_TRUE(holds_values(found, Ball::exact(x), mpfr_exp)) << std::hexfloat << x << " limbs " << limbs;
    ASSERT_LT(relative_width(found), -bits_of(limbs) + 64) << std::hexfloat << x << " limbs " << limbs;
  }
  EXPECT_EQ(rational(detail::exact::exp(Ball{}, 4).middle), 1);
}

TEST(Elementary, ExpOfBalls) {
  Random random(2);
  for (int i = 0; i < 4000; ++i) {
    const std::int64_t bits = random.between(12, 200);
    const Ball x = known_to(random.sign() * random_double(random, -40, 9), bits);
    const Ball found = detail::exact::exp(x, 4);
    ASSERT_TRUE(holds_values(found, x, mpfr_exp));
    // e^r - 1 is below 2r for r < 1; what the halvings and squarings make of it is not much more.
    ASSERT_LT(relative_width(found), std::max<std::int64_t>(x.radius.exponent + 5, -bits_of(4) + 65)) << bits;
  }
}

TEST(Elementary, LogOfExactNumbersAndBalls) {
  Random random(3);
  for (int i = 0; i < 6000; ++i) {
    const std::size_t limbs = 1 + random.below(i % 50 == 0 ? 20 : 6);
    const double x = i % 3 == 0   ? random_double(random, -1000, 1000)
                     : i % 3 == 1 ? 1 + random.sign() * random_double(random, -52, -3)
                                  : random_double(random, -5, 20);
    const std::int64_t bits = i % 2 == 0 ? 0 : random.between(14, 200);
    const Ball ball = known_to(x, bits);
    const Ball found = detail::exact::log(ball, limbs);
    ASSERT_TRUE(holds_values(found, ball, mpfr_log)) << std::hexfloat << x << " limbs " << limbs << " bits " << bits;
    // The working precision counts from the size of ln x or from 1, whichever is greater.
    const std::int64_t size = std::max<std::int64_t>(0, detail::exact::magnitude(found).exponent);
    const std::int64_t working = size - bits_of(limbs) + 67;
    ASSERT_LT(found.radius.exponent, bits == 0 ? working : std::max(working, -bits + 3))
        << std::hexfloat << x << " limbs " << limbs << " bits " << bits;
  }
}

// ln(1 + x) keeps its relative accuracy however small x is.
TEST(Elementary, Log1p) {
  Random random(4);
  for (int i = 0; i < 6000; ++i) {
    const std::size_t limbs = 2 + random.below(5);
    const double x = i % 3 == 0   ? random.sign() * random_double(random, -900, -14)
                     : i % 3 == 1 ? random.sign() * random_double(random, -16, -2)
                                  : random_double(random, -2, 100);
    const std::int64_t bits = i % 2 == 0 ? 0 : random.between(20, 300);
    const Ball ball = known_to(x, bits);
    const Ball found = detail::exact::log1p(ball, limbs);
    ASSERT_TRUE(holds_values(found, ball, mpfr_log1p)) << std::hexfloat << x << " limbs " << limbs << " bits " << bits;
    const std::int64_t known = bits == 0 ? -bits_of(limbs) + 80 : std::max(-bits_of(limbs) + 80, -bits + 6);
    ASSERT_LT(relative_width(found), known) << std::hexfloat << x << " limbs " << limbs << " bits " << bits;
  }
  const Ball nothing = detail::exact::log1p(Ball{}, 4);
  EXPECT_TRUE(nothing.is_exact() && nothing.middle.is_zero());
}

void expect_softcap(float z, float c) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const detail::exact::Format& format = dtype == DType::f32    ? detail::exact::kF32
                                          : dtype == DType::bf16 ? detail::exact::kBf16
                                                                 : detail::exact::kF16;
    const auto expected = static_cast<double>(oracle::softcap(z, c, dtype));
    const double found = detail::exact::softcap(z, c, format);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found));
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(expected))
        << dtype_name(dtype) << std::hexfloat << " z " << z << " cap " << c;
  }
}

TEST(Elementary, SoftcapIsTheOracles) {
  Random random(5);
  const auto draw = [&](std::int64_t lowest, std::int64_t highest) {
    return static_cast<float>(random.sign() * random_double(random, lowest, highest));
  };
  for (int i = 0; i < 4000; ++i) {
    const float c = std::fabs(i % 4 == 0 ? draw(-149, 126) : draw(0, 8));
    if (c == 0) continue;
    const float z =
        i % 3 == 0 ? draw(-149, 126) : static_cast<float>(static_cast<double>(c) * static_cast<double>(draw(-15, 5)));
    ASSERT_NO_FATAL_FAILURE(expect_softcap(z, c));
  }
}

// Beside the ends of the ranges in which it takes z or c itself for its value, and where these are midpoints of the
// narrow formats.
TEST(Elementary, SoftcapAtTheEndsOfItsRanges) {
  Random random(6);
  for (int i = 0; i < 400; ++i) {
    const auto c = static_cast<float>(random_double(random, -20, 20));
    for (const float edge : {c * 0x1p-13F, c * 10}) {
      for (const float z : {edge, std::nextafter(edge, 0.0F), std::nextafter(edge, HUGE_VALF), -edge}) {
        ASSERT_NO_FATAL_FAILURE(expect_softcap(z, c));
      }
    }
    const int bits = i % 2 == 0 ? 8 : 11;
    const float middle = std::ldexp(1 + std::ldexp(2 * static_cast<float>(random.below(1U << (bits - 1))) + 1, -bits),
                                    static_cast<int>(random.between(-10, 10)));
    for (const float cap : {middle, 0x1p20F * middle, 0x1p100F, 3e38F})
      ASSERT_NO_FATAL_FAILURE(expect_softcap(middle, cap));
    for (const float z : {11 * middle, 25 * middle, 1e30F, HUGE_VALF, -HUGE_VALF}) {
      ASSERT_NO_FATAL_FAILURE(expect_softcap(z, middle));
    }
  }
  for (const float z : {0.0F, -0.0F, std::nanf(""), 0x1p-149F, -0x1p-149F, 0x1.fffffep127F}) {
    for (const float c : {0x1p-149F, 1.0F, 30.0F, 0x1.fffffep127F}) ASSERT_NO_FATAL_FAILURE(expect_softcap(z, c));
  }
}

}  // namespace
}  // namespace isologit::test
