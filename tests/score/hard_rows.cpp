#include "score/hard_rows.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "oracle/cases.hpp"

namespace isologit::testing_score {
namespace {

// In long double: accurate enough to find candidates, which the tests then judge by the oracle. On lse and logprob
// the sign differs and nothing else, so their searches start from different seeds.
long double value_of(HardResult result, long double x) {
  const long double e = std::exp(x);
  const long double excess = std::log1p(e);
  return result == HardResult::entropy ? excess - x * e / (1 + e) : excess;
}

}  // namespace

long double distance_to_boundary(long double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const long double units = std::ldexp(value, 24 - exponent);  // f32 numbers are integers here, boundaries halves
  return std::fabs(units - std::floor(units) - 0.5L);
}

std::vector<float> hard_pairs(HardResult result, std::int64_t tries, std::size_t count) {
  oracle::Random random(static_cast<std::uint64_t>(result) + 100);
  std::vector<std::pair<long double, float>> hardest;
  long double worst = 1;
  for (std::int64_t i = 0; i < tries; ++i) {
    const auto x = -static_cast<float>(0.125 + 4 * random.uniform());
    const long double distance = distance_to_boundary(value_of(result, static_cast<long double>(x)));
    if (distance >= worst) continue;
    hardest.emplace_back(distance, x);
    if (hardest.size() < 2 * count) continue;
    std::sort(hardest.begin(), hardest.end());
    hardest.erase(std::unique(hardest.begin(), hardest.end()), hardest.end());
    if (hardest.size() > count) hardest.resize(count);
    if (hardest.size() == count) worst = hardest.back().first;
  }
  std::sort(hardest.begin(), hardest.end());
  hardest.resize(std::min(count, hardest.size()));
  std::vector<float> xs;
  for (const auto& [distance, x] : hardest) xs.push_back(x);
  return xs;
}

}  // namespace isologit::testing_score
