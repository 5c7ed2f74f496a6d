// The factors of a low-rank addition to the weight, of one hidden row, as the kernels take them.
#pragma once

#include <cstdint>
#include <vector>

#include "exact/low_rank.hpp"

namespace isologit::detail::kernels {

// Plain members: what is compiled for an instruction set shares no code with the rest.
struct LowRankRow {
  const std::vector<exact::LowRankFactor>* factors;
  const double* near;  // per factor RN64 of it
  double reach;        // a bound of the sum of the magnitudes of near
  double unit;         // a power of two that divides all factors, or 0; +inf where all are 0
};

// `near` holds as many doubles as there are factors. Both must outlive the result.
LowRankRow low_rank_row(const std::vector<exact::LowRankFactor>& factors, double* near);

}  // namespace isologit::detail::kernels
