// The factors of a low-rank addition to the weight, of one hidden row, as the kernels take them.
#pragma once

#include <cstdint>
#include <vector>

#include "exact/low_rank.hpp"

namespace isologit::detail::kernels {

// Plain members: what is compiled for an instruction set shares no code with the rest.
struct LowRankRow {
  const std::vector<exact::LowRankFactor>* factors;
  // Per factor u a double within 2^-53 |near| + 2^-400 of it. Infinite where u is or is 2^800 or more; NaN where u is.
  const double* near;
  // A bound of the sum of their magnitudes: at least 2^-340 where a factor that is not 0 has a near of 0.
  double reach;
  // The lowest set bit of all factors where each is its near exactly, +inf where all are 0; else 0.
  double unit;
};

// `near` holds as many doubles as there are factors. Both must outlive the result.
LowRankRow low_rank_row(const std::vector<exact::LowRankFactor>& factors, double* near);

}  // namespace isologit::detail::kernels
