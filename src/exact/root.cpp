#include "exact/root.hpp"

#include <cmath>
#include <utility>

namespace isologit::detail::exact {
namespace {

BigFloat subtract(const BigFloat& a, const BigFloat& b) { return add(a, negate(b)); }

// -1, 0 or 1 as (±sqrt(numerator / denominator)) - x is negative, zero or positive.
int compare_root(bool negative, const BigFloat& numerator, const BigFloat& denominator, const BigFloat& x) {
  if (numerator.is_zero()) return x.is_zero() ? 0 : x.negative ? 1 : -1;
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
  // Boundaries between two roundings have one bit more than the format.
  const Format boundaries{format.precision + 1, format.emin, format.emax};
  for (std::size_t limbs = 3;; limbs *= 2) {
    const Ball quotient = divide(Ball{numerator, {}}, Ball{denominator, {}}, limbs);
    const Ball root = sqrt(quotient, limbs);
    const Ball value = add(Ball{shift, {}}, negative ? negate(root) : root, limbs);
    if (const auto rounded = try_round(value, format)) return *rounded;
    const auto nearest = try_round(value, boundaries);
    if (!nearest || *nearest == 0 || std::isinf(*nearest)) continue;
    // No other boundary is in reach, so the side of this one decides.
    BigFloat nudged = BigFloat::from_double(*nearest);
    const int side = compare_root(negative, numerator, denominator, subtract(nudged, shift));
    if (side == 0) return round(nudged, format);
    BigFloat nudge = BigFloat::power_of_two(format.emin - format.precision - 64);
    nudge.negative = side < 0;
    return round(add(nudged, nudge), format);
  }
}

}  // namespace isologit::detail::exact
