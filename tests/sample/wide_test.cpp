// Cuts that keep more than the first pass lists.
#include <gtest/gtest.h>

#include <cmath>

#include "oracle/cases.hpp"
#include "sample/expect_oracle.hpp"

namespace isologit::test {
namespace {

using oracle::RowFamily;

class Wide : public testing::TestWithParam<RowFamily> {};

TEST_P(Wide, EqualTheOracle) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    const std::vector<float> logits = oracle::make_row(GetParam(), 4000, seed);
    for (const oracle::Cuts& cuts : {oracle::Cuts{},
                                     {0, 0, 0.3F},
                                     {0, 0, 0.9F},
                                     {0, 0, 0.9999F},
                                     {0, 0, 1 - 0x1p-24F},
                                     {0, 1500, 1},
                                     {0, 3999, 1},
                                     {0, 2000, 0.2F},
                                     {0, 2000, 0.97F},
                                     {1e-3F, 0, 1},
                                     {1e-6F, 2500, 0.99F},
                                     {1e-30F, 0, 0.8F},
                                     {0x1p-149F, 3000, 0.999F},
                                     {1, 0, 0.7F},
                                     {0.5F, 1030, 1}}) {
      expect_oracle(logits, {cuts, 1, {seed, 3, 5}, 1, {}});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Wide,
                         testing::Values(RowFamily::normal, RowFamily::near_certain, RowFamily::two_level,
                                         RowFamily::all_equal, RowFamily::top_ties, RowFamily::one_finite,
                                         RowFamily::midpoint_gap, RowFamily::subnormal, RowFamily::masked_like),
                         [](const auto& one) { return std::string(oracle::name_of(one.param)); });

// Flat rows of many close levels: the search has to narrow through all scales.
TEST(WideRows, LevelsOfEveryScale) {
  std::vector<float> logits(4096);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::ldexp(1.0F, -static_cast<int>(i * 37 % 149));
  for (const float top_p : {0.5F, 0.95F, 0.9999F}) expect_oracle(logits, {{0, 0, top_p}, 1, {1, 1, 1}, 1, {}});
  expect_oracle(logits, {{0, 2222, 1}, 1, {1, 1, 1}, 1, {}});
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = -std::ldexp(1.0F, static_cast<int>(i % 250) - 123);
  expect_oracle(logits, {{0, 3333, 1}, 1, {1, 1, 1}, 1, {}});
  expect_oracle(logits, {{0, 3333, 0.999F}, 1, {1, 1, 1}, 1, {}});
}

TEST(WideRows, KernelsAndThreadsAgree) {
  const std::vector<float> logits = oracle::make_row(RowFamily::normal, 5000, 0);
  Plan plan{{0, 0, 0.99F}, 1, {9, 9, 9}, 3, {}};
  const Result<Draws> expected = draw(logits, plan);
  ASSERT_TRUE(expected);
  EXPECT_EQ(expected->report.rounds, 3);
  for (const std::string& kernel : runnable_kernels()) {
    if (kernel == "reference") continue;  // it takes sums of 5000 in exact arithmetic
    for (const int threads : {1, 2, 5}) {
      plan.options.kernel = kernel;
      plan.options.threads = threads;
      const Result<Draws> draws = draw(logits, plan);
      ASSERT_TRUE(draws);
      EXPECT_EQ(draws->ids, expected->ids);
      EXPECT_EQ(draws->logprobs, expected->logprobs);
      EXPECT_EQ(draws->cut_logprobs, expected->cut_logprobs);
      EXPECT_EQ(draws->log_kept_cut, expected->log_kept_cut);
    }
  }
}

}  // namespace
}  // namespace isologit::test
