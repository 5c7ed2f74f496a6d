// Dot products against MPFR's own rounding to float, transforms against mpmath and IEEE division.
#include "oracle/logit.hpp"

#include <gtest/gtest.h>
#include <mpfr.h>

#include <cmath>
#include <limits>
#include <vector>

#include "oracle/cases.hpp"
#include "oracle/round.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();

float logit_of(const std::vector<double>& h, const std::vector<double>& w, double bias = 0) {
  return logit(h.data(), w.data(), h.size(), bias);
}

TEST(Logit, HandWorked) {
  EXPECT_EQ(logit_of({1, 2, 3}, {4, 5, 6}), 32.0F);
  EXPECT_EQ(logit_of({0x1p100, 1, -0x1p100}, {1, 0x1p-149, 1}), 0x1p-149F);
  EXPECT_EQ(logit_of({1, 1}, {1, 0x1p-24}), 1.0F);                                 // a tie, to even
  EXPECT_EQ(logit_of({1, 1, 0x1p-149}, {1, 0x1p-24, 0x1p-149}), 1.0F + 0x1p-23F);  // 2^-298 past it
  EXPECT_EQ(logit_of({1, 1}, {1, 0x1p-24}, 0x1p-149), 1.0F + 0x1p-23F);
  EXPECT_EQ(logit_of({0x1p-75}, {0x1p-75}), 0.0F);
  EXPECT_EQ(logit_of({0x1p-75, 0x1p-149}, {0x1p-75, 0x1p-149}), 0x1p-149F);
  EXPECT_EQ(logit_of({0x1p127, 0x1p127}, {1, 1}), infinity);
  EXPECT_EQ(logit_of({0x1p127, 0x1p127, 1}, {0x1p127, -0x1p127, 5}), 5.0F);
}

TEST(Logit, ZeroIsPlusZeroAndNanIsTheOne) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(bits_of(logit_of({-0.0, 1}, {1, -0.0}, -0.0)), 0U);
  EXPECT_EQ(bits_of(logit_of({-0x1p-100}, {0x1p-100})), 0U);
  for (const float x : {logit_of({nan, 1}, {0, 1}), logit_of({inf}, {0}), logit_of({inf, -inf}, {1, 1}),
                        logit_of({inf}, {1}, -inf), logit_of({1}, {1}, nan), logit_of({1, 0}, {1, -inf})}) {
    EXPECT_EQ(bits_of(x), 0x7FC00000U);
  }
  EXPECT_EQ(logit_of({inf, 0x1p127}, {-1, 0x1p127}), -infinity);
  EXPECT_EQ(logit_of({1}, {1}, inf), infinity);
}

TEST(Logit, OneRoundingToBf16AndF16) {
  // 1 + 2^-8 + 2^-40: to f32 and then to bf16 would tie to 1.
  const std::vector<double> h{1, 0x1p-8, 0x1p-40}, w{1, 1, 1};
  EXPECT_EQ(logit(h.data(), w.data(), 3, 0, DType::bf16), 1.0F + 0x1p-7F);
  EXPECT_EQ(logit(h.data(), w.data(), 2, 0, DType::bf16), 1.0F);
  const std::vector<double> g{65504, 16};
  EXPECT_EQ(logit(g.data(), w.data(), 1, 0, DType::f16), 65504.0F);
  EXPECT_EQ(logit(g.data(), std::vector<double>{1, 1}.data(), 2, 0, DType::f16), infinity);
}

// The same sum in 1024-bit MPFR numbers, where every addition is exact, rounded by mpfr_get_flt.
float mpfr_logit(const double* h, const double* w, std::int64_t count, double bias) {
  mpfr_t sum, term;
  mpfr_inits2(1024, sum, term, nullptr);
  mpfr_set_d(sum, bias, MPFR_RNDN);
  for (std::int64_t k = 0; k < count; ++k) {
    mpfr_set_d(term, h[k], MPFR_RNDN);
    mpfr_mul_d(term, term, w[k], MPFR_RNDN);
    mpfr_add(sum, sum, term, MPFR_RNDN);
  }
  const float result = mpfr_get_flt(sum, MPFR_RNDN);
  mpfr_clears(sum, term, nullptr);
  if (std::isnan(result)) return quiet_nan();
  return result == 0 ? 0.0F : result;
}

TEST(Logit, AgreesWithMpfrOnEveryFamily) {
  constexpr DType types[] = {DType::bf16, DType::f16, DType::f32};
  for (const DotFamily family : dot_families) {
    for (const DType hidden : types) {
      for (const DType weight : types) {
        const DotShape shape{3, 17, 67, hidden, weight, DType::f32};
        const DotData data = make_dot(shape, family, 7);
        for (std::int64_t n = 0; n < shape.rows; ++n) {
          for (std::int64_t v = 0; v < shape.vocab; ++v) {
            const float ours = logit(data.hidden_row(n), data.weight_row(v), 67, data.bias_of(v));
            const float theirs = mpfr_logit(data.hidden_row(n), data.weight_row(v), 67, data.bias_of(v));
            ASSERT_EQ(bits_of(ours), bits_of(theirs)) << name_of(family) << ' ' << dtype_name(hidden) << ' '
                                                      << dtype_name(weight) << " row " << n << " id " << v;
          }
        }
      }
    }
  }
}

struct SoftcapFact {
  std::uint32_t z, c, expected;
};

TEST(Softcap, MatchesMpmath) {
  // mpmath at 4000 bits: c * tanh(z / c), rounded to binary32 in fractions.Fraction.
  const SoftcapFact facts[] = {
      {0x41200000U, 0x41F00000U, 0x411A537CU},  // 10, 30
      {0x42480000U, 0x41F00000U, 0x41DF7760U},  // 50, 30
      {0x3A83126FU, 0x41F00000U, 0x3A83126FU},  // 0.001, 30
      {0x1E3CE508U, 0x41F00000U, 0x1E3CE508U},  // 1e-20, 30
      {0x43480000U, 0x41F00000U, 0x41EFFFCDU},  // 200, 30
      {0x43C80000U, 0x41F00000U, 0x41F00000U},  // 400, 30
      {0x7F61B1E6U, 0x42480000U, 0x42480000U},  // 3e+38, 50
      {0x000116C2U, 0x42480000U, 0x000116C2U},  // 1e-40, 50
      {0x3F333333U, 0x3A83126FU, 0x3A83126FU},  // 0.7, 0.001
      {0x41C80000U, 0x40200000U, 0x40200000U},  // 25, 2.5
      {0x3F800000U, 0x7E967699U, 0x3F800000U},  // 1.0, 1e+38
      {0x41700000U, 0x41A00000U, 0x414B3F67U},  // 15.0, 20.0
      {0x00C00000U, 0x03800000U, 0x00BFF701U},  // 1.7632415262334313e-38, 7.52316384526264e-37
  };
  for (const auto& [z, c, expected] : facts) {
    EXPECT_EQ(bits_of(softcap(float_of(z), float_of(c))), expected) << float_of(z) << ' ' << float_of(c);
    EXPECT_EQ(bits_of(softcap(-float_of(z), float_of(c))), expected ^ 0x80000000U);
  }
}

TEST(Softcap, Limits) {
  EXPECT_EQ(softcap(infinity, 30.0F), 30.0F);
  EXPECT_EQ(softcap(-infinity, 30.0F), -30.0F);
  EXPECT_EQ(softcap(largest, 0x1p-149F), 0x1p-149F);
  EXPECT_EQ(softcap(largest, largest), static_cast<float>(static_cast<double>(largest) * 0.7615941559557649));
  EXPECT_EQ(softcap(0x1p-149F, largest), 0x1p-149F);
  EXPECT_EQ(bits_of(softcap(-0.0F, 30.0F)), 0U);
  EXPECT_EQ(bits_of(softcap(-std::numeric_limits<float>::quiet_NaN(), 30.0F)), 0x7FC00000U);
}

// Where f32 numbers are midpoints of a narrower type, what lies between the real number and that f32 number decides.
TEST(Softcap, NarrowResultsSeeWhatF32DoesNot) {
  const float midpoint = 1 + 0x1p-8F;  // of two bf16 numbers, 1 and 1 + 2^-7
  EXPECT_EQ(softcap(midpoint, largest), midpoint);
  EXPECT_EQ(softcap(midpoint, largest, DType::bf16), 1.0F);
  EXPECT_EQ(softcap(-midpoint, largest, DType::bf16), -1.0F);
  EXPECT_EQ(softcap(largest, midpoint), midpoint);
  EXPECT_EQ(softcap(largest, midpoint, DType::bf16), 1.0F);
  EXPECT_EQ(softcap(-largest, midpoint, DType::bf16), -1.0F);
  EXPECT_EQ(softcap(infinity, midpoint, DType::bf16), 1.0F);  // the midpoint itself: ties to even
  EXPECT_EQ(softcap(infinity, 1 + 3 * 0x1p-8F, DType::bf16), 1 + 0x1p-6F);
  EXPECT_EQ(softcap(50.0F, 30.0F, DType::f16), 27.9375F);  // 27.9331..., where f16 numbers are 2^-6 apart
}

TEST(LastLogit, OnlyTheLastStepIsNarrow) {
  const double h[] = {1, 0x1p-20};
  const double w[] = {1 + 0x1p-8, 0x1p-20};  // just above the midpoint
  const auto last = [&](const Transforms& transforms, float t, DType type) {
    return last_logit({h, w, 2}, 0, transforms, t, type);
  };
  EXPECT_EQ(last({}, 1, DType::f32), 1 + 0x1p-8F);
  EXPECT_EQ(last({}, 1, DType::bf16), 1 + 0x1p-7F);
  EXPECT_EQ(last({}, 2.0F, DType::bf16), 0.5F);                                       // the f32 sum is the midpoint
  EXPECT_EQ(last({false, 0, ScaleKind::divide, 1.0F}, 1, DType::bf16), 1 + 0x1p-7F);  // no step
  EXPECT_EQ(last({false, 0, ScaleKind::multiply, 2.0F}, 1, DType::bf16), 2.0F);
  EXPECT_EQ(last({false, 0, ScaleKind::divide, 3.0F}, 1.0F, DType::f32), (1 + 0x1p-8F) / 3.0F);
  EXPECT_EQ(last({true, 0x1p-8F, ScaleKind::none, 0}, 0x1p-8F, DType::f16), 1.0F);
}

// IEEE single-precision division and multiplication are one rounding of the real quotient and product.
TEST(Scale, AgreesWithTheProcessor) {
  Random random(3);
  for (int i = 0; i < 5000; ++i) {
    const auto draw = [&] {
      return static_cast<float>(std::ldexp(1 + random.uniform(), static_cast<int>(random.between(-130, 126))));
    };
    const float z = static_cast<float>(random.sign()) * draw();
    const float s = draw();
    const float quotient = z / s;
    const float product = z * s;
    ASSERT_EQ(bits_of(temperature(z, s)), bits_of(quotient == 0 ? 0.0F : quotient)) << z << ' ' << s;
    ASSERT_EQ(bits_of(scale_multiply(z, s)), bits_of(product == 0 ? 0.0F : product)) << z << ' ' << s;
  }
  EXPECT_EQ(scale_multiply(infinity, -2.0F), -infinity);
  EXPECT_EQ(scale_divide(-infinity, 3.0F), -infinity);
  EXPECT_EQ(bits_of(scale_multiply(-0.0F, 1.0F)), 0U);
}

TEST(Transform, RoundsAfterEachStepInOrder) {
  Transforms transforms{true, 30.0F, ScaleKind::multiply, 0.1F};
  const float capped = softcap(17.3F, 30.0F);
  EXPECT_EQ(transform(17.3F, transforms, 0.7F), (capped * 0.1F) / 0.7F);
  transforms.order = TransformOrder::scale_first;
  EXPECT_EQ(before_softcap(17.3F, transforms), 17.3F * 0.1F);
  EXPECT_EQ(transform(17.3F, transforms, 0.7F), softcap(17.3F * 0.1F, 30.0F) / 0.7F);
  EXPECT_EQ(transform(40.0F, Transforms{true, 0.5F, ScaleKind::multiply, 8.0F, TransformOrder::scale_first}, 2.0F),
            0.25F);
  // 1/3, times 3, is 1 after two roundings, and the order of steps is softcap first.
  EXPECT_EQ(transform(1.0F, Transforms{false, 0, ScaleKind::divide, 3.0F}, 1.0F), 1.0F / 3.0F);
  EXPECT_EQ(transform(40.0F, Transforms{true, 0.5F, ScaleKind::multiply, 8.0F}, 2.0F), 2.0F);
}

}  // namespace
}  // namespace isologit::oracle
