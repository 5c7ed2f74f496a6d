// A million draws of a row follow its probabilities. Draws are fixed by their keys, so each test holds or it does not.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>

#include "sample/draws.hpp"

namespace isologit::test {
namespace {

constexpr std::int64_t kDraws = 1'000'000;

std::vector<double> counts_of(const std::vector<float>& logits, Plan plan) {
  plan.count = kDraws;
  plan.floats = false;
  const Result<Draws> draws = draw(logits, plan);
  std::vector<double> counts(logits.size());
  if (!draws) {
    ADD_FAILURE() << draws.error().message;
    return counts;
  }
  for (const std::int64_t id : draws->ids) ++counts[static_cast<std::size_t>(id)];
  return counts;
}

double chi_squared(const std::vector<double>& counts, const std::vector<double>& masses) {
  double total = 0;
  for (const double mass : masses) total += mass;
  double sum = 0;
  for (std::size_t v = 0; v < counts.size(); ++v) {
    const double expected = static_cast<double>(kDraws) * masses[v] / total;
    if (masses[v] == 0) {
      EXPECT_EQ(counts[v], 0) << v;
    } else {
      sum += (counts[v] - expected) * (counts[v] - expected) / expected;
    }
  }
  return sum;
}

const std::vector<float> row = {0, 1, 2, -1, 0.5F, 3, -3, 2.5F};

TEST(Frequencies, AreTheProbabilities) {
  std::vector<double> masses;
  for (const float z : row) masses.push_back(std::exp(static_cast<double>(z)));
  EXPECT_LT(chi_squared(counts_of(row, {{}, 1, {42, 7, 0}}), masses), 24.32);  // 0.999 of 7 degrees of freedom
}

TEST(Frequencies, AreTheProbabilitiesAtATemperature) {
  std::vector<double> masses;
  for (const float z : row) masses.push_back(std::exp(static_cast<double>(z) / 2));
  EXPECT_LT(chi_squared(counts_of(row, {{}, 2, {43, 7, 0}}), masses), 24.32);
}

TEST(Frequencies, AreThoseOfWhatTheCutsLeave) {
  // The order is 5, 7, 2, 1, 4, 0, ...; four are left of top-k 4, and 0.9 of their mass needs three.
  std::vector<double> masses(row.size());
  for (const std::size_t v : {5U, 7U, 2U}) masses[v] = std::exp(static_cast<double>(row[v]));
  EXPECT_LT(chi_squared(counts_of(row, {{0, 4, 0.9F}, 1, {44, 7, 0}}), masses), 13.82);  // 2 degrees
}

TEST(Frequencies, SmallTemperatureHugeLogits) {
  // At T = 10^-4 logits of 10^5 become 10^9, where f32 numbers are 64 apart: equal ones share, all others are left
  // nothing. Arithmetic that adds the Gumbel number to 10^9 in f32 takes one of the equal ones always.
  const std::vector<float> huge = {1e5F, -1e5F, 1e5F, 99999.9F, 1e5F, 0, -1e5F, 1e5F};
  const std::vector<double> masses = {1, 0, 1, 0, 1, 0, 0, 1};
  EXPECT_LT(chi_squared(counts_of(huge, {{}, 1e-4F, {45, 7, 0}}), masses), 16.27);  // 3 degrees
  const std::vector<float> close = {1.0F, 1.0001F, 0.9999F, -1e5F, 1.0002F};
  std::vector<double> close_masses;
  for (const float z : close) {
    const float last = static_cast<float>(static_cast<double>(z) / static_cast<double>(1e-4F));
    close_masses.push_back(std::exp(static_cast<double>(last) - 10000.0));
  }
  EXPECT_LT(chi_squared(counts_of(close, {{}, 1e-4F, {46, 7, 0}}), close_masses), 16.27);
}

// Neighbouring positions, ids, seeds and sequences are independent: pairs of draws of two equal logits.
TEST(Frequencies, NeighboursAreIndependent) {
  const std::vector<float> coin(2, 0.0F);
  const auto toss = [&](oracle::DrawKey key) {
    Plan plan{{}, 1, key, kDraws};
    plan.floats = false;
    return draw(coin, plan)->ids;
  };
  const auto base = toss({1, 1, 0});
  for (const oracle::DrawKey other : {oracle::DrawKey{1, 1, 1}, {2, 1, 0}, {1, 2, 0}, {1ULL << 32, 1, 0}}) {
    const auto shifted = toss(other);
    std::array<double, 4> pairs{};
    for (std::size_t i = 0; i < base.size(); ++i) ++pairs[static_cast<std::size_t>(2 * base[i] + shifted[i])];
    EXPECT_LT(chi_squared({pairs.begin(), pairs.end()}, {1, 1, 1, 1}), 16.27);
  }
}

}  // namespace
}  // namespace isologit::test
