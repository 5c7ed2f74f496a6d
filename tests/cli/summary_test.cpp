// Mean and perplexity against MPFR, which rounds the exact sum's quotient by itself.
#include "cli/summary.hpp"

#include <gtest/gtest.h>
#include <mpfr.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace isologit::detail::cli {
namespace {

constexpr mpfr_prec_t kWide = 4000;  // holds any sum of the values here exactly

Summary by_mpfr(const std::vector<float>& values) {
  mpfr_t sum;
  mpfr_t quotient;
  mpfr_t rounded;
  mpfr_inits2(kWide, sum, quotient, nullptr);
  mpfr_init2(rounded, 53);
  mpfr_set_zero(sum, 1);
  for (float value : values) mpfr_add_d(sum, sum, static_cast<double>(value), MPFR_RNDN);
  mpfr_div_ui(rounded, sum, values.size(), MPFR_RNDN);
  Summary summary{mpfr_get_d(rounded, MPFR_RNDN) + 0.0, 0};
  mpfr_div_ui(quotient, sum, values.size(), MPFR_RNDN);
  mpfr_neg(quotient, quotient, MPFR_RNDN);
  mpfr_exp(quotient, quotient, MPFR_RNDN);
  summary.perplexity = mpfr_get_d(quotient, MPFR_RNDN);
  mpfr_clears(sum, quotient, rounded, nullptr);
  return summary;
}

void expect_right(const std::vector<float>& values) {
  const auto summary = summarise(values);
  ASSERT_TRUE(summary.has_value());
  const Summary expected = by_mpfr(values);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(summary->mean), std::bit_cast<std::uint64_t>(expected.mean))
      << summary->mean << " " << expected.mean;
  EXPECT_EQ(summary->perplexity, expected.perplexity);
}

TEST(Summary, EqualsMpfrOnRandomValues) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    std::vector<float> values(1 + random() % 50);
    const int range = i % 3 == 0 ? 4 : i % 3 == 1 ? 40 : 140;
    for (float& value : values) {
      const auto significand = static_cast<float>(random() % (1U << 24));
      value = -std::ldexp(significand, static_cast<int>(random() % static_cast<unsigned>(range)) - range - 20);
    }
    expect_right(values);
  }
}

TEST(Summary, EqualsMpfrWhereOneRoundingMatters) {
  expect_right({-1});
  expect_right({0, 0, 0});
  expect_right({-1, -1, -1.5F});
  // Means that lie on a midpoint of two doubles, and beside it.
  expect_right({-1.0F, -0x1p-53F});
  expect_right({-1.0F - 0x1p-23F, -0x1.8p-52F});
  expect_right({-1.0F, -0x1.8p-52F});
  expect_right({-1.0F, -0x1p-53F, -0x1p-149F, 0});
  expect_right({-1.0F, -0x1p-52F, -0.5F, -0.5F});
  expect_right({-3.0F, -0x3p-53F, 0});
  expect_right({-3.0F, -0x1.8p-52F, -0x1p-149F});
  expect_right({-3.0F, -0x1.2p-50F, 0});
  // Nearer to a midpoint than a ball of 256 bits can tell: 2^120 + 2^67, and what an 11th or 3rd of 2^-149 makes of it.
  expect_right({-0x3p120F, -0x3p67F, -0x1p-149F});
  std::vector<float> short_of_it = {-0xBp120F, -0xAp67F};
  for (int e = 67; e > -149; e -= 24) short_of_it.push_back(-std::ldexp(1.0F - 0x1p-24F, e));
  ASSERT_EQ(short_of_it.size(), 11U);
  expect_right(short_of_it);
  // Perplexities next to 1, and next to overflow.
  expect_right({-0x1p-149F});
  expect_right({-0x1p-53F});
  expect_right({-0x1p-52F, -0x1p-149F});
  expect_right({-709.78F});
  expect_right({-709.79F});
  expect_right({-3e38F, -3e38F, -0x1p-149F});
}

TEST(Summary, SpecialValues) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(summarise({}).has_value());
  const std::vector<float> infinite = {-1, -kInfinity};
  EXPECT_EQ(summarise(infinite)->mean, -std::numeric_limits<double>::infinity());
  EXPECT_EQ(summarise(infinite)->perplexity, std::numeric_limits<double>::infinity());
  const std::vector<float> nan = {-1, -kInfinity, std::nanf("")};
  EXPECT_TRUE(std::isnan(summarise(nan)->mean));
  EXPECT_TRUE(std::isnan(summarise(nan)->perplexity));
}

}  // namespace
}  // namespace isologit::detail::cli
