#include "exact/elementary.hpp"

#include <cmath>

#include "exact/constants.hpp"

namespace isologit::detail::exact {
namespace {

// A number of `bits` leading bits of x, near enough for choosing an integer or a starting value.
double near(const BigFloat& x) {
  if (x.is_zero()) return 0;
  const Approximation a = approximate(x);
  if (a.exponent < -1000) return 0;
  return std::ldexp(a.mantissa, static_cast<int>(a.exponent));
}

// ln(1 + d) = d - d^2/2 + d^3/3 - ..., |d| < 2^-10.
Ball log1p_series(const Ball& d, std::size_t limbs) {
  Ball sum = d;
  Ball power = d;
  if (d.middle.is_zero() && d.is_exact()) return d;
  const std::int64_t stop = magnitude(d).exponent - bits_of(limbs);
  for (std::uint32_t n = 2; magnitude(power).exponent > stop; ++n) {
    power = multiply(power, d, limbs);
    const Ball term = divide_by(power, n, limbs);
    sum = n % 2 == 0 ? subtract(sum, term, limbs) : add(sum, term, limbs);
  }
  sum.radius = sum.radius + magnitude(power);  // what follows is below |power| (|d| + |d|^2 + ...) < |power|
  return sum;
}

}  // namespace

Ball exp(const Ball& x, std::size_t limbs) {
  const std::size_t wide = limbs + 1;  // the squarings below lose a few bits
  // x = k ln 2 + r, |r| < 1/2; then e^x = 2^k (e^(r / 2^s))^(2^s).
  constexpr int kHalvings = 10;
  const BigFloat k = BigFloat::from_double(std::nearbyint(near(x.middle) / 0.6931471805599453));
  const Ball r = subtract(x, multiply(Ball{k, {}}, ln2(wide + 1), wide + 1), wide + 1);
  const Ball small = scale_by_power_of_two(r, -kHalvings);
  Ball sum = add(Ball::exact(1), small, wide);
  Ball term = small;
  for (std::uint32_t n = 2; magnitude(term).exponent > -bits_of(wide) && !term.middle.is_zero(); ++n) {
    term = divide_by(multiply(term, small, wide), n, wide);
    sum = add(sum, term, wide);
  }
  sum.radius = sum.radius + magnitude(term);  // the rest is below the last term, |small| being under 1/2
  for (int i = 0; i < kHalvings; ++i) sum = multiply(sum, sum, wide);
  return scale_by_power_of_two(sum, static_cast<std::int64_t>(near(k)));
}

Ball exp_or_tiny(const Ball& x, std::size_t limbs) {
  const std::int64_t bits = 4 * bits_of(limbs);
  const BigFloat most = upper(x);
  if (most.negative && compare_magnitude(most, BigFloat::from_double(static_cast<double>(bits))) > 0) {
    return {{}, Bound::power_of_two(-bits)};
  }
  return exp(x, limbs);
}

Ball log(const Ball& x, std::size_t limbs) {
  const Approximation near_x = approximate(x.middle);
  // y is near ln x; ln x = y + ln(1 + d) with d = x e^-y - 1, whatever y is.
  const double y = std::log(near_x.mantissa) + static_cast<double>(near_x.exponent) * 0.6931471805599453;
  const Ball factor = exp(Ball::exact(-y), limbs + 1);
  const Ball d = subtract(multiply(x, factor, limbs + 1), Ball::exact(1), limbs + 1);
  return add(Ball::exact(y), log1p_series(d, limbs), limbs);
}

Ball log1p(const Ball& x, std::size_t limbs) {
  const Bound size = magnitude(x);
  if (size.is_zero() || size.exponent < -12) return log1p_series(x, limbs);
  return log(add(Ball::exact(1), x, limbs + 1), limbs);
}

Ball tanh(const Ball& x, std::size_t limbs) {
  // (1 - e) / (1 + e), e = e^(-2x)
  const Ball e = exp_or_tiny(negate(scale_by_power_of_two(x, 1)), limbs);
  return divide(subtract(Ball::exact(1), e, limbs), add(Ball::exact(1), e, limbs), limbs);
}

double softcap(float z, float c, const Format& format) {
  if (std::isnan(z)) return static_cast<double>(quiet_nan());
  if (z == 0) return 0.0;
  const double size = std::fabs(static_cast<double>(z));
  const double cap = c;
  const auto with_sign = [&](double magnitude) { return z < 0 && magnitude != 0 ? -magnitude : magnitude; };
  if (std::isinf(z)) return with_sign(round(BigFloat::from_double(cap), format));  // c tanh(inf) is c itself
  // The result lies just below a number that is f32, nearer than any midpoint of f32 or narrower but perhaps that
  // number.
  const auto just_below = [&](double f32) {
    return with_sign(round(BigFloat::from_double(std::nextafter(f32, 0.0)), format));
  };
  // c tanh(z/c) lies between z (1 - x^2/3) and z, where x = z/c: below 2^-13 that is within 2^-26/3 of z, and the
  // midpoints of f32 are 2^-25 of z away or more. c (1 - 2 e^(-2x)) and c likewise, above 10.
  if (size < 0x1p-13 * cap) return just_below(size);
  if (size > 10 * cap) return just_below(cap);
  for (std::size_t limbs = 3;; limbs *= 2) {
    const Ball capped =
        multiply(Ball::exact(cap), tanh(divide(Ball::exact(size), Ball::exact(cap), limbs), limbs), limbs);
    if (const auto rounded = try_round(capped, format)) return with_sign(*rounded);
  }
}

}  // namespace isologit::detail::exact
