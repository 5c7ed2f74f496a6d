// The rounding itself, against hand-worked boundaries and against the processor's own conversions.
#include "oracle/round.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "oracle/cases.hpp"
#include "oracle/interval.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

mpq_class q(double x) { return mpq_class(x); }
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();

mpq_class tiny() {
  mpq_class x(1);
  mpq_div_2exp(x.get_mpq_t(), x.get_mpq_t(), 5000);
  return x;
}

TEST(Round, TiesGoToEven) {
  EXPECT_EQ(rn32(1 + q(0x1p-24)), 1.0F);
  EXPECT_EQ(rn32(1 + q(0x1p-24) + tiny()), 1.0F + 0x1p-23F);
  EXPECT_EQ(rn32(1 + q(0x3p-24)), 1.0F + 0x1p-22F);
  EXPECT_EQ(rn32(1 + q(0x3p-24) - tiny()), 1.0F + 0x1p-23F);
  EXPECT_EQ(rn32(-1 - q(0x1p-24)), -1.0F);
}

TEST(Round, OverflowsFromHalfAnUlpPastTheLargest) {
  const mpq_class limit = q(0x1p128) - q(0x1p103);
  EXPECT_EQ(rn32(limit), infinity);
  EXPECT_EQ(rn32(-limit), -infinity);
  EXPECT_EQ(rn32(limit - tiny()), largest);
  EXPECT_EQ(rn32(q(0x1p1000)), infinity);
  EXPECT_EQ(round_to(q(65520), format_f16), std::numeric_limits<double>::infinity());
  EXPECT_EQ(round_to(q(65520) - tiny(), format_f16), 65504.0);
}

TEST(Round, KeepsSubnormalsAndHasNoMinusZero) {
  EXPECT_EQ(rn32(q(0x1p-150) + tiny()), 0x1p-149F);
  EXPECT_EQ(rn32(q(0x3p-150)), 0x1p-148F);
  const mpq_class halves[] = {q(0x1p-150), -q(0x1p-150), -tiny(), 0};
  for (const mpq_class& x : halves) EXPECT_EQ(bits_of(rn32(x)), 0U);
  EXPECT_EQ(rn32(q(0x1p-126) - q(0x1p-150)), 0x1p-126F);
  EXPECT_EQ(round_to(q(0x1.8p-24), format_f16), 0x1p-23);
  EXPECT_EQ(round_to(q(0x1p-134), format_bf16), 0.0);
}

TEST(Round, AgreesWithTheProcessor) {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const double x = random.sign() * std::ldexp(1 + random.uniform(), static_cast<int>(random.between(-152, 128)));
    ASSERT_EQ(rn32(q(x)), static_cast<float>(x)) << x;
  }
}

TEST(Values, DecodingAndEncodingAreInverse) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto element = static_cast<std::uint16_t>(bits);
    if (!std::isnan(decode_f16(element))) {
      ASSERT_EQ(encode_f16(static_cast<float>(decode_f16(element))), element);
    }
    if (!std::isnan(decode_bf16(element))) {
      ASSERT_EQ(encode_bf16(static_cast<float>(decode_bf16(element))), element);
    }
  }
  EXPECT_EQ(decode_f16(0x3555), 0.333251953125);
  EXPECT_EQ(decode_f16(0x0001), 0x1p-24);
  EXPECT_EQ(decode_f16(0xFBFF), -65504.0);
  EXPECT_EQ(decode_bf16(0x3EAB), 0.333984375);
}

TEST(Values, EncodersRoundAsRoundToDoes) {
  Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const auto x =
        static_cast<float>(random.sign() * std::ldexp(1 + std::ldexp(static_cast<double>(random.below(64)), -6) *
                                                              (1 + 0x1p-10 * static_cast<double>(random.below(3))),
                                                      static_cast<int>(random.between(-28, 16))));
    ASSERT_EQ(std::fabs(decode_f16(encode_f16(x))), std::fabs(round_to(mpq_class(x), format_f16))) << x;
    ASSERT_EQ(decode_bf16(encode_bf16(x)), round_to(mpq_class(x), format_bf16)) << x;
  }
}

// An interval that straddles the midpoint settles nothing; a sign known beside it does.
TEST(RoundSum, TheSignOfAVanishingDeltaDecides) {
  const mpq_class midpoint = 1 + q(0x1p-24);
  Interval delta(64);
  mpfr_set_ui_2exp(delta.hi.get(), 1, mpfr_get_emin(), MPFR_RNDU);  // [0, least positive]
  EXPECT_EQ(round_sum(midpoint, delta, 1), 1.0 + 0x1p-23);
  EXPECT_EQ(round_sum(midpoint, -delta, -1), 1.0);
  EXPECT_EQ(round_sum(midpoint, Interval(64), 0), 1.0);
  mpfr_set_d(delta.lo.get(), -0x1p-60, MPFR_RNDD);
  mpfr_set_d(delta.hi.get(), 0x1p-60, MPFR_RNDD);
  EXPECT_EQ(round_sum(midpoint, delta, 0), std::nullopt);
  EXPECT_EQ(round_sum(midpoint, delta, 1), 1.0 + 0x1p-23);
  EXPECT_EQ(round_sum(mpq_class(1, 3), delta, 0), static_cast<double>(1.0F / 3.0F));
  mpfr_set_d(delta.hi.get(), 0x1p-20, MPFR_RNDD);
  EXPECT_EQ(round_sum(midpoint, delta, 1), std::nullopt);
}

}  // namespace
}  // namespace isologit::oracle
