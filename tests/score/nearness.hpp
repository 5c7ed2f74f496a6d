// How near results lie to a tie, the boundary between two f32 roundings: what makes a comparison with an oracle hard.
#pragma once

#include <cstdint>
#include <span>

namespace isologit::testing_score {

// Distances as shares of the f32 spacing at the result, so from 0 to 0.5.
struct Nearness {
  std::int64_t values = 0;
  std::int64_t within_2_12 = 0;  // nearer than 2^-12, and so on
  std::int64_t within_2_16 = 0;
  std::int64_t within_2_20 = 0;   // beyond what plain f64 sums can tell
  std::int64_t within_2_100 = 0;  // only the sign of a tiny remainder decides
  double nearest = 0.5;           // of those above 2^-100

  void merge(const Nearness& other);
  void print() const;
};

// Of the lse, the entropy and the logprobs of these ids; nothing of special rows.
Nearness nearness_of(std::span<const float> z, std::span<const std::int64_t> ids);

}  // namespace isologit::testing_score
