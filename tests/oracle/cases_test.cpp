// The generators are only worth something if they make what their names say.
#include "oracle/cases.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(Random, IsSplitMix64) {
  // The first outputs for the seed 1234567, from the generator's authors' reference program.
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317U);
  EXPECT_EQ(random.next(), 3203168211198807973U);
  EXPECT_EQ(random.next(), 9817491932198370423U);
}

float plain_double(const DotData& data, std::int64_t n, std::int64_t v) {
  double sum = 0;
  for (std::int64_t k = 0; k < data.shape.cols; ++k) sum += data.hidden_row(n)[k] * data.weight_row(v)[k];
  return static_cast<float>(sum);
}

float exact(const DotData& data, std::int64_t n, std::int64_t v) {
  return logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(data.shape.cols), data.bias_of(v));
}

TEST(DotCases, SameSeedSameData) {
  const DotShape shape{2, 5, 32, DType::f32, DType::bf16, DType::f16};
  const DotData a = make_dot(shape, DotFamily::normal, 3);
  EXPECT_EQ(a.weight, make_dot(shape, DotFamily::normal, 3).weight);
  EXPECT_NE(a.weight, make_dot(shape, DotFamily::normal, 4).weight);
  EXPECT_EQ(a.bias.size(), 10U);
  EXPECT_EQ(a.hidden_view().row_stride, 32);
}

// Plain double gets many near ties wrong, in every pair of types.
TEST(DotCases, NearTiesDefeatPlainDouble) {
  for (const DType hidden : {DType::bf16, DType::f16, DType::f32}) {
    for (const DType weight : {DType::bf16, DType::f16, DType::f32}) {
      const DotShape shape{4, 200, 64, hidden, weight, std::nullopt};
      const DotData data = make_dot(shape, DotFamily::near_tie, 1);
      int wrong = 0;
      for (std::int64_t n = 0; n < shape.rows; ++n) {
        for (std::int64_t v = 0; v < shape.vocab; ++v) wrong += plain_double(data, n, v) != exact(data, n, v) ? 1 : 0;
      }
      EXPECT_GT(wrong, 100) << dtype_name(hidden) << ' ' << dtype_name(weight);
    }
  }
}

TEST(DotCases, OverflowLimitGivesBothSides) {
  for (const auto& [hidden, weight] : {std::pair{DType::bf16, DType::bf16}, std::pair{DType::f16, DType::f32},
                                       std::pair{DType::f32, DType::f16}, std::pair{DType::f32, DType::f32}}) {
    const DotShape shape{4, 50, 40, hidden, weight, std::nullopt};
    const DotData data = make_dot(shape, DotFamily::overflow_limit, 1);
    int infinite = 0;
    int greatest = 0;
    for (std::int64_t n = 0; n < shape.rows; ++n) {
      for (std::int64_t v = 0; v < shape.vocab; ++v) {
        const float x = std::fabs(exact(data, n, v));
        infinite += x == infinity ? 1 : 0;
        greatest += x == std::numeric_limits<float>::max() ? 1 : 0;
      }
    }
    EXPECT_EQ(infinite + greatest, 200);
    EXPECT_GT(infinite, 30);
    EXPECT_GT(greatest, 30);
  }
}

TEST(DotCases, SubnormalAndSpecialResultsOccur) {
  const DotShape shape{6, 60, 48, DType::f32, DType::f32, DType::f32};
  const auto count = [&](DotFamily family, auto predicate) {
    const DotData data = make_dot(shape, family, 2);
    int found = 0;
    for (std::int64_t n = 0; n < shape.rows; ++n) {
      for (std::int64_t v = 0; v < shape.vocab; ++v) found += predicate(exact(data, n, v)) ? 1 : 0;
    }
    return found;
  };
  EXPECT_GT(count(DotFamily::subnormal, [](float x) { return std::fpclassify(x) == FP_SUBNORMAL; }), 20);
  EXPECT_GT(count(DotFamily::specials, [](float x) { return std::isnan(x); }), 20);
  EXPECT_GT(count(DotFamily::specials, [](float x) { return std::isinf(x); }), 20);
  EXPECT_GT(count(DotFamily::specials, [](float x) { return std::isfinite(x); }), 20);
  EXPECT_GT(count(DotFamily::wide_exponents, [](float x) { return std::fabs(x) > 0x1p100F; }), 20);
  EXPECT_GT(count(DotFamily::zero_rows, [](float x) { return x == 0; }), 20);
}

TEST(RowCases, EveryKindOfGapOccurs) {
  int midpoints = 0;
  float greatest = 0;
  for (std::uint64_t seed = 0; seed < 11; ++seed) {
    const std::vector<float> z = make_row(RowFamily::midpoint_gap, 5, seed);
    midpoints += is_midpoint_gap(z.front(), z.back()) ? 1 : 0;
    greatest = std::max(greatest, z.front());
  }
  EXPECT_EQ(midpoints, 8);
  EXPECT_EQ(greatest, std::numeric_limits<float>::max());
  EXPECT_TRUE(is_midpoint_gap(200.0F, -(100.0F + 0x1p-16F)));
  EXPECT_FALSE(is_midpoint_gap(200.0F, -100.0F));
  EXPECT_FALSE(is_midpoint_gap(1.0F, 0x1p-100F));
}

TEST(RowCases, SmallestVocabulary) {
  for (const RowFamily family : row_families) {
    for (std::uint64_t seed = 0; seed < 11; ++seed) EXPECT_EQ(make_row(family, 1, seed).size(), 1U);
  }
}

}  // namespace
}  // namespace isologit::oracle
