// One logit by the definition against the oracle's, special values included.
#include "exact/logit.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {
namespace {

void expect_same(double found, float expected) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found));
  } else {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(static_cast<double>(expected)));
  }
}

TEST(ExactLogit, OfEveryFamilyTypeAndFormat) {
  constexpr DType dtypes[] = {DType::bf16, DType::f16, DType::f32};
  constexpr detail::exact::Format formats[] = {detail::exact::kBf16, detail::exact::kF16, detail::exact::kF32};
  std::uint64_t seed = 0;
  for (const oracle::DotFamily family : oracle::dot_families) {
    for (const DType hidden : dtypes) {
      for (const DType weight : dtypes) {
        const oracle::DotData data =
            make_dot({4, 20, 5 + static_cast<std::int64_t>(++seed % 60), hidden, weight, DType::f32}, family, seed);
        const std::int64_t cols = data.shape.cols;
        for (std::int64_t i = 0; i < 4 * 20; ++i) {
          const auto* h = data.hidden.data() + i / 20 * cols * static_cast<std::int64_t>(dtype_size(hidden));
          const auto* w = data.weight.data() + i % 20 * cols * static_cast<std::int64_t>(dtype_size(weight));
          const double bias = data.bias_of(i % 20);
          for (std::size_t f = 0; f < 3; ++f) {
            SCOPED_TRACE(testing::Message()
                         << name_of(family) << " seed " << seed << " logit " << i << " format " << f);
            expect_same(detail::exact::logit(h, hidden, w, weight, cols, static_cast<float>(bias), formats[f]),
                        oracle::logit(data.hidden_row(i / 20), data.weight_row(i % 20), static_cast<std::size_t>(cols),
                                      bias, dtypes[f]));
          }
        }
      }
    }
  }
}

// CONTRACT.md 1, word by word.
TEST(ExactLogit, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float most = std::numeric_limits<float>::max();
  struct Case {
    float h0, w0, h1, w1, bias;
    double expected;
  };
  const double no_number = std::nan("");
  const Case cases[] = {
      {1, 2, 3, 4, 0, 14},
      {inf, 1, 1, 1, 0, HUGE_VAL},
      {inf, -1, 1, 1, 0, -HUGE_VAL},
      {-inf, -inf, 1, 1, 0, HUGE_VAL},
      {inf, 0, 1, 1, 0, no_number},
      {0, -inf, 1, 1, 0, no_number},
      {inf, 1, inf, -1, 0, no_number},
      {inf, 1, inf, 1, 0, HUGE_VAL},
      {inf, 1, 1, 1, -inf, no_number},
      {1, 1, 1, 1, inf, HUGE_VAL},
      {1, 1, 1, 1, -inf, -HUGE_VAL},
      {nan, 0, 1, 1, 0, no_number},
      {1, 1, 1, nan, inf, no_number},
      {1, 1, 1, 1, nan, no_number},
      {most, most, most, -most, 5, 5},      // finite terms far beyond f32 are no infinity
      {most, most, -inf, 1, 0, -HUGE_VAL},  // nor do they meet one
      {most, 2, 0, 0, 0, HUGE_VAL},         // the sum rounds to it
      {-0.0F, 1, -0.0F, 1, -0.0F, 0},       // zero is +0
      {1, 1, 1, -1, -0.0F, 0},
      {0x1p-149F, 0x1p-149F, 0, 0, 0, 0},  // far below half of the smallest number
      {-0x1p-149F, 0x1p-149F, 0, 0, 0, 0},
  };
  for (const Case& one : cases) {
    const float hidden[] = {one.h0, one.h1};
    const float weight[] = {one.w0, one.w1};
    const double found = detail::exact::logit(hidden, DType::f32, weight, DType::f32, 2, one.bias, detail::exact::kF32);
    if (std::isnan(one.expected)) {
      EXPECT_TRUE(std::isnan(found)) << &one - cases;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(one.expected)) << &one - cases;
    }
  }
  EXPECT_EQ(detail::exact::logit(nullptr, DType::bf16, nullptr, DType::bf16, 0, -2, detail::exact::kF32), -2);
}

}  // namespace
}  // namespace isologit::test
