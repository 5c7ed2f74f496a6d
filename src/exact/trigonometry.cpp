#include "exact/trigonometry.hpp"

#include <cmath>
#include <utility>

#include "exact/constants.hpp"

namespace isologit::detail::exact {
namespace {

// x^n / n! - x^(n+2) / (n+2)! + ..., |x| < 1, of which `term` is the first.
Ball alternating_series(Ball term, std::uint32_t n, const Ball& square, std::size_t limbs) {
  Ball sum = term;
  while (!term.middle.is_zero() && magnitude(term).exponent > -bits_of(limbs)) {
    term = negate(divide_by(multiply(term, square, limbs), (n + 1) * (n + 2), limbs));
    sum = add(sum, term, limbs);
    n += 2;
  }
  sum.radius = sum.radius + magnitude(term);  // alternating: the rest is below the last term
  return sum;
}

}  // namespace

SineCosine sine_cosine(const BigFloat& angle, std::size_t limbs) {
  // angle = k pi / 2 + r, |r| < 0.8. Two limbs more than asked for: k has up to 48 bits.
  const std::size_t wide = limbs + 2;
  double k = 0;
  if (!angle.is_zero()) {
    const Approximation near = approximate(angle);
    if (near.exponent >= -2) {
      k = std::nearbyint(std::ldexp(near.mantissa, static_cast<int>(near.exponent)) * 0.6366197723675814);
    }
  }
  const Ball half_pi = scale_by_power_of_two(pi(wide), -1);
  const Ball r = subtract(Ball{angle, {}}, multiply(Ball::exact(k), half_pi, wide), wide);
  const Ball square = multiply(r, r, wide);
  const Ball sine = alternating_series(r, 1, square, wide);
  const Ball cosine = alternating_series(Ball::exact(1), 0, square, wide);
  switch (static_cast<std::int64_t>(k) & 3) {
    case 0: return {sine, cosine};
    case 1: return {cosine, negate(sine)};
    case 2: return {negate(sine), negate(cosine)};
    default: return {negate(cosine), sine};
  }
}

}  // namespace isologit::detail::exact
