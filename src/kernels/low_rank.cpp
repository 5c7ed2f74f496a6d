#include "kernels/low_rank.hpp"

#include <cmath>
#include <limits>

namespace isologit::detail::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Far enough from the ends of f64 that products with elements neither vanish nor overflow.
constexpr std::int64_t kLeast = -400;
constexpr std::int64_t kMost = 800;

}  // namespace

LowRankRow low_rank_row(const std::vector<exact::LowRankFactor>& factors, double* near) {
  LowRankRow row{&factors, near, 0, kInfinity};
  for (const exact::LowRankFactor& factor : factors) {
    double& x = *near++;
    x = factor.special;
    if (x == 0 && !factor.value.is_zero()) {
      const std::int64_t highest = highest_bit(factor.value);
      const std::int64_t lowest = lowest_bit(factor.value);
      const bool usual = highest >= kLeast && highest < kMost;
      const bool exact = usual && highest - lowest < exact::kF64.precision;
      if (usual) {
        x = round(factor.value, exact::kF64);
      } else if (highest >= kMost) {
        x = factor.value.negative ? -kInfinity : kInfinity;
      } else {
        row.reach += 0x1p-340;
      }
      row.unit = std::fmin(row.unit, exact ? std::ldexp(1.0, static_cast<int>(lowest)) : 0.0);
    }
    row.reach += std::fabs(x);
  }
  row.reach *= 1 + 0x1p-11;  // fewer than 2^40 additions lose less than 2^-12 of it
  return row;
}

}  // namespace isologit::detail::kernels
