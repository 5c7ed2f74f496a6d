// Draws of every family of rows, under every combination of cuts, against the oracle.
#include <gtest/gtest.h>

#include "oracle/cases.hpp"
#include "sample/expect_oracle.hpp"

namespace isologit::test {
namespace {

// min-p, top-k, top-p: none, one, all; exact boundaries among them.
const std::vector<oracle::Cuts> all_cuts = {
    {0, 0, 1},        {0.1F, 0, 1},       {1, 0, 1},         {0, 1, 1},           {0, 5, 1},
    {0, 100000, 1},   {0, 0, 0.5F},       {0, 0, 0.95F},     {0, 0, 0x1p-149F},   {0, 4, 0.5F},
    {0.01F, 0, 0.9F}, {0.02F, 20, 0.75F}, {0x1p-149F, 0, 1}, {0, 0, 1 - 0x1p-24F}};

class Families : public testing::TestWithParam<oracle::RowFamily> {};

TEST_P(Families, EqualTheOracle) {
  for (const std::int64_t vocab : {1, 2, 33, 150}) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const std::vector<float> logits = oracle::make_row(GetParam(), vocab, seed);
      for (const oracle::Cuts& cuts : all_cuts) {
        expect_oracle(logits, {cuts, 1, {seed * 0x9E3779B97F4A7C15U, ~seed, 0xFFFFFFFFU - 1}, 2, {}});
      }
    }
  }
}

// Nothing rounds or bounds by itself in the reference: it meets the same cases.
TEST_P(Families, ReferenceEqualsTheOracle) {
  ScoreOptions options;
  options.kernel = "reference";
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    const std::vector<float> logits = oracle::make_row(GetParam(), 40, seed);
    for (const oracle::Cuts& cuts : all_cuts) expect_oracle(logits, {cuts, 1, {seed, 7, 0}, 1, options});
  }
}

TEST_P(Families, Temperatures) {
  const std::vector<float> logits = oracle::make_row(GetParam(), 70, 1);
  for (const float t : {0.0F, 1e-4F, 0.3F, 2.5F, 1e30F}) {
    expect_oracle(logits, {{}, t, {11, 12, 13}, 2, {}});
    expect_oracle(logits, {{0.05F, 30, 0.9F}, t, {11, 12, 13}, 2, {}});
  }
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(oracle::row_families),
                         [](const auto& one) { return std::string(oracle::name_of(one.param)); });

TEST(Oracle, ManyDrawsOfOneRow) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 100, 2);
  expect_oracle(logits, {{}, 1, {1, 2, 3}, 200, {}});
  expect_oracle(logits, {{0, 30, 0.9F}, 1, {1, 2, 3}, 100, {}});
}

TEST(Oracle, MoreThanTheListHolds) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 1500, 0);
  EXPECT_EQ(expect_oracle(logits, {{0, 0, 0.999F}, 1, {5, 6, 7}, 2, {}}).further_rows, 2);
  EXPECT_EQ(expect_oracle(logits, {{0, 1200, 1}, 1, {5, 6, 7}, 2, {}}).further_rows, 2);
  EXPECT_EQ(expect_oracle(logits, {{0, 0, 0.5F}, 1, {5, 6, 7}, 2, {}}).rounds, 1);
}

TEST(Oracle, EveryTopPOfARowThatIsOneLongTie) {
  const std::vector<float> logits(1100, 2.5F);
  for (const float top_p : {0.25F, 0.9F, 0.95F, 1 - 0x1p-24F}) {
    expect_oracle(logits, {{0, 0, top_p}, 1, {5, 6, 7}, 1, {}});
  }
}

}  // namespace
}  // namespace isologit::test
