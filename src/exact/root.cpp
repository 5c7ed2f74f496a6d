#include "exact/root.hpp"

#include <cmath>
#include <utility>

namespace isologit::detail::exact {
namespace {

// -1, 0 or 1 as (±sqrt(numerator / denominator)) - x is negative, zero or positive; the numerator is above 0.
int compare_root(bool negative, const BigFloat& numerator, const BigFloat& denominator, const BigFloat& x) {
  if (x.is_zero() || x.negative != negative) return negative ? -1 : 1;
  const int larger = compare_magnitude(numerator, multiply(multiply(x, x), denominator));
  return negative ? -larger : larger;
}

}  // namespace

Ball sqrt(const Ball& x, std::size_t limbs) {
  // Newton's iteration for the root of x's middle; how well it did is measured, not assumed.
  const Approximation start = approximate(x.middle);
  const bool odd = start.exponent % 2 != 0;
  const double mantissa = std::sqrt(odd ? 2 * start.mantissa : start.mantissa);
  BigFloat root = scale_by_power_of_two(BigFloat::from_double(mantissa), (start.exponent - (odd ? 1 : 0)) / 2);
  for (std::size_t bits = 50; bits < 64 * (limbs + 1); bits *= 2) {
    const Ball quotient = divide(Ball{x.middle, {}}, Ball{root, {}}, limbs + 1);
    root = scale_by_power_of_two(add(root, quotient.middle), -1);
    truncate(root, limbs + 1);
  }
  truncate(root, limbs);
  // For every y in x: |sqrt(y) - root| = |y - root^2| / (sqrt(y) + root) <= |y - root^2| / root.
  const Bound residual = Bound::of(subtract(x.middle, multiply(root, root))) + x.radius;
  if (residual.is_zero()) return {std::move(root), {}};
  const std::int64_t least = highest_bit(root);
  return {std::move(root), residual * Bound::power_of_two(-least)};
}

double round_with_root(const BigFloat& shift, bool negative, const BigFloat& numerator, const BigFloat& denominator,
                       const Format& format) {
  if (numerator.is_zero()) return round(shift, format);
  for (std::size_t limbs = 3;; limbs *= 2) {
    const Ball quotient = divide(Ball{numerator, {}}, Ball{denominator, {}}, limbs);
    const Ball root = sqrt(quotient, limbs);
    const Ball value = add(Ball{shift, {}}, negative ? negate(root) : root, limbs);
    if (const auto rounded = try_round(value, format)) return *rounded;
    const auto nearest = try_round(value, boundaries_of(format));
    if (!nearest || *nearest == 0 || std::isinf(*nearest)) continue;
    // No other boundary is in reach, so the side of this one decides.
    const BigFloat boundary = BigFloat::from_double(*nearest);
    const int side = compare_root(negative, numerator, denominator, subtract(boundary, shift));
    return round_beside(boundary, side, format);
  }
}

}  // namespace isologit::detail::exact
