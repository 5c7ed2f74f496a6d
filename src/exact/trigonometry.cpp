#include "exact/trigonometry.hpp"

#include <cmath>
#include <mutex>
#include <utility>
#include <vector>

namespace isologit::detail::exact {
namespace {

std::int64_t bits_of(std::size_t limbs) { return 64 * static_cast<std::int64_t>(limbs); }

// atan(1/n) = sum of (-1)^k / (n^(2k+1) (2k+1)).
Ball atan_of_inverse(std::uint32_t n, std::size_t limbs) {
  Ball power = divide_by(Ball::exact(1), n, limbs);
  Ball sum = power;
  for (std::uint32_t k = 1; magnitude(power).exponent > -bits_of(limbs); ++k) {
    power = negate(divide_by(power, n * n, limbs));
    sum = add(sum, divide_by(power, 2 * k + 1, limbs), limbs);
  }
  sum.radius = sum.radius + magnitude(power);  // alternating: the rest is below the last term
  return sum;
}

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

Ball pi(std::size_t limbs) {
  // Kept for the precisions that occur: each is a pure function of `limbs`, so the cache changes no result.
  static std::mutex mutex;
  static std::vector<Ball> known(1);
  const std::lock_guard lock(mutex);
  if (known.size() <= limbs) known.resize(limbs + 1);
  if (known[limbs].middle.is_zero()) {
    // pi = 16 atan(1/5) - 4 atan(1/239)  (Machin 1706)
    const std::size_t wide = limbs + 1;
    const Ball a = multiply(Ball::exact(16), atan_of_inverse(5, wide), wide);
    const Ball b = multiply(Ball::exact(4), atan_of_inverse(239, wide), wide);
    known[limbs] = subtract(a, b, limbs);
  }
  return known[limbs];
}

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
