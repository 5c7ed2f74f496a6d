// Cases that no precision settles, or only with great care: exact balances, ties, huge gaps, near-equal draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/philox.hpp"
#include "sample/expect_oracle.hpp"

namespace isologit::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// How many of a row's ids are ever drawn when all that is kept is equal: with 64 draws an id, all that are kept.
std::vector<std::int64_t> drawn(const std::vector<float>& logits, const oracle::Cuts& cuts) {
  Plan plan{cuts, 1, {3, 1, 0}, static_cast<std::int64_t>(logits.size()) * 64};
  std::vector<std::int64_t> ids = draw(logits, plan)->ids;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

using Ids = std::vector<std::int64_t>;

TEST(Boundary, TopPOfEqualLogitsIsACount) {
  const std::vector<float> equal(8, -3.25F);
  EXPECT_EQ(drawn(equal, {0, 0, 0.5F}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(drawn(equal, {0, 0, std::nextafter(0.5F, 1.0F)}), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn(equal, {0, 0, std::nextafter(0.5F, 0.0F)}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(drawn(equal, {0, 0, 0x1p-149F}), (Ids{0}));
  EXPECT_EQ(drawn(equal, {0, 6, 0.5F}), (Ids{0, 1, 2}));
}

TEST(Boundary, TopPOfTiesAndOneFarBelow) {
  // Half of four is two; a fifth logit, however small its mass, makes it three.
  for (const float gap : {10.0F, 200.0F, 1e6F, 1e30F}) {
    const std::vector<float> logits = {1, 1, 1 - gap, 1, 1};
    EXPECT_EQ(drawn(logits, {0, 0, 0.5F}), (Ids{0, 1, 3})) << gap;
    EXPECT_EQ(drawn(logits, {0, 4, 0.5F}), (Ids{0, 1})) << gap;
  }
  EXPECT_EQ(drawn({1, 1, -infinity, 1, 1}, {0, 0, 0.5F}), (Ids{0, 1}));
}

TEST(Boundary, TopPOfManyTiesAndOneFarBelow) {
  std::vector<float> logits(2048, 7.0F);
  const auto kept = [&](float top_p) { return std::exp(-draw(logits, {{0, 0, top_p}})->cut_logprobs[0]); };
  EXPECT_NEAR(kept(0.75F), 1536, 0.1);
  EXPECT_NEAR(kept(std::nextafter(0.75F, 1.0F)), 1537, 0.1);
  logits.push_back(-1e6F);
  EXPECT_NEAR(kept(0.75F), 1537, 0.1);
  logits[0] = std::nextafter(7.0F, 8.0F);
  expect_oracle(logits, {{0, 0, 0.75F}, 1, {1, 2, 3}, 1, {}});
}

TEST(Boundary, MinP) {
  const float ln2 = 0.693147182464599609375F;  // the f32 number next above ln 2
  const std::vector<float> logits{0.0F, -ln2, -std::nextafter(ln2, 0.0F), -0.0F, -5.0F, -infinity};
  EXPECT_EQ(drawn(logits, {0.5F, 0, 1}), (Ids{0, 2, 3}));
  EXPECT_EQ(drawn(logits, {1, 0, 1}), (Ids{0, 3}));
  const std::vector<float> huge{3e38F, -3e38F, 3e38F};
  EXPECT_EQ(drawn(huge, {0x1p-149F, 0, 1}), (Ids{0, 2}));
}

TEST(Boundary, HugeGaps) {
  for (const std::vector<float>& logits : {std::vector<float>{0, -1e6F, -1e6F},
                                           {1e6F, 0, -1e6F, 1e6F},
                                           {200, -(100 + 0x1p-16F)},
                                           {3.4e38F, -3.4e38F, 0},
                                           {1e9F, 1e9F, 1e9F - 64, 5},
                                           {-1e9F, -1e9F, -2e9F}}) {
    for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0.5F, 0, 1}, {0, 1, 1}, {0, 2, 1}, {0, 0, 0.9F}}) {
      expect_oracle(logits, {cuts, 1, {1, 2, 3}, 3, {}});
    }
  }
}

TEST(Boundary, NearCertainRowsKeepRelativePrecision) {
  for (const float gap : {5.0F, 17.0F, 40.0F, 80.0F, 103.0F, 104.5F}) {
    const std::vector<float> logits = {gap, 0, -1, 0.5F, -3};
    for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0, 1, 1}, {0, 2, 1}, {0, 4, 1}, {0, 0, 1 - 0x1p-24F}}) {
      expect_oracle(logits, {cuts, 1, {1, 2, 3}, 1, {}});
    }
  }
}

std::uint32_t first_word(const oracle::DrawKey& key, std::int64_t id) {
  return oracle::words_of(key, static_cast<std::uint32_t>(id)).r1;
}

TEST(Boundary, SecondWordDecidesWhereTheFirstIsEqual) {
  const oracle::DrawKey key{1, 2, 3};
  constexpr std::int64_t vocab = 200'000;  // some 4 or 5 pairs in 2^32 words
  std::vector<std::pair<std::uint32_t, std::int64_t>> words;
  for (std::int64_t v = 0; v < vocab; ++v) words.emplace_back(first_word(key, v), v);
  std::sort(words.begin(), words.end());
  int pairs = 0;
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i].first != words[i - 1].first) continue;
    ++pairs;
    std::vector<float> logits(vocab, -infinity);
    const std::int64_t a = words[i - 1].second;
    const std::int64_t b = words[i].second;
    for (const std::int64_t v : {a, b}) logits[static_cast<std::size_t>(v)] = 0.5F;
    const Result<Draws> draws = draw(logits, {{}, 1, key});
    ASSERT_TRUE(draws);
    const bool a_wins = oracle::words_of(key, static_cast<std::uint32_t>(a)).r2 >
                        oracle::words_of(key, static_cast<std::uint32_t>(b)).r2;
    EXPECT_EQ(draws->ids[0], a_wins ? a : b);
    EXPECT_EQ(draws->report.second_words, 2);
    EXPECT_EQ(draws->report.exact_draws, 0);
  }
  EXPECT_GT(pairs, 0);
}

TEST(Boundary, SecondWordsAreForContendersOnly) {
  std::vector<float> logits(1000);
  for (std::size_t v = 0; v < logits.size(); ++v) logits[v] = static_cast<float>(v % 17) / 4;
  const Result<Draws> draws = draw(logits, {{}, 1, {4, 4, 4}, 2000});
  ASSERT_TRUE(draws);
  EXPECT_LT(draws->report.second_words, 20);  // of 2 000 000 tokens
}

// Two ids whose Gumbel numbers nearly agree, and a logit that takes up the difference as well as f32 can.
TEST(Boundary, DrawsThatF64CannotTellApart) {
  const oracle::DrawKey key{8, 8, 8};
  std::vector<std::pair<double, std::int64_t>> numbers;
  for (std::uint32_t v = 0; v < 30'000; ++v) {
    const oracle::Words words = oracle::words_of(key, v);
    const double u = (static_cast<double>(words.r1) + static_cast<double>(words.r2) * 0x1p-32) * 0x1p-32;
    if (u > 0.2 && u < 0.6) numbers.emplace_back(-std::log(-std::log(u)), v);
  }
  std::sort(numbers.begin(), numbers.end());
  std::int64_t exact = 0;
  for (std::size_t i = 1; i < numbers.size(); ++i) {
    const double gap = numbers[i].first - numbers[i - 1].first;
    if (gap > 0x1p-19) continue;
    const auto a = static_cast<std::size_t>(numbers[i - 1].second);
    const auto b = static_cast<std::size_t>(numbers[i].second);
    std::vector<float> logits(std::max(a, b) + 1, -infinity);
    logits[b] = 0;
    for (const float z : {static_cast<float>(gap), std::nextafter(static_cast<float>(gap), 1.0F)}) {
      logits[a] = z;
      exact += expect_oracle(logits, {{}, 1, key, 1, {}}).exact_draws;
    }
  }
  EXPECT_GT(exact, 0);
}

}  // namespace
}  // namespace isologit::test
