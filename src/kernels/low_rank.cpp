#include "kernels/low_rank.hpp"

#include <cmath>
#include <limits>

namespace isologit::detail::kernels {

LowRankRow low_rank_row(const std::vector<exact::LowRankFactor>& factors, double* near) {
  LowRankRow row{&factors, near, 0, std::numeric_limits<double>::infinity()};
  for (const exact::LowRankFactor& factor : factors) {
    *near = factor.special;
    if (factor.special == 0 && !factor.value.is_zero()) {
      *near = round(factor.value, exact::kF64);
      row.unit = std::fmin(row.unit, std::ldexp(1.0, static_cast<int>(lowest_bit(factor.value))));
    }
    row.reach += std::fabs(*near++);
  }
  row.reach *= 1 + 0x1p-11;  // fewer than 2^40 additions lose less than 2^-12 of it
  return row;
}

}  // namespace isologit::detail::kernels
