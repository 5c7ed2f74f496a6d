// Sums of e^-gap and gap e^-gap over gaps below a known top, as balls of any precision.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exact/ball.hpp"

namespace isologit::detail::fold {

// top - z as a real number.
exact::BigFloat gap_below(float top, float z);

// e^-gap, gap >= 0. From 2^50 on, past every granularity, only that it is small.
exact::Ball exp_minus(const exact::BigFloat& gap, std::size_t limbs);

// A gap wider than this is far: its term is below 2^far_exponent(limbs), beyond the working precision, and with 4 limbs
// or more beyond every f32 as well. The next round has more limbs and a wider reach, so nothing is left out for good.
inline double reach(std::size_t limbs) { return 64.0 * static_cast<double>(limbs); }
inline std::int64_t far_exponent(std::size_t limbs) { return -92 * static_cast<std::int64_t>(limbs); }

// The sum of `far` numbers between 0 and 2^exponent: half of that give or take as much.
exact::Ball far_share(std::int64_t far, std::int64_t exponent);

struct BallSums {
  std::size_t limbs = 0;
  std::int64_t far = 0;  // gaps so wide that they only widen the radius
  exact::Ball mass;
  exact::Ball moment;

  // Adds one gap, and returns its e^-gap.
  exact::Ball add(const exact::BigFloat& gap);
  void merge(const BallSums& other);
};

}  // namespace isologit::detail::fold
