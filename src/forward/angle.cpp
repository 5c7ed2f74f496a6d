// The angle is a + b, both exact: 15 and 16 bits of the position times 24 of the frequency. It is reduced by k pi / 2,
// pi / 2 being the sum of four parts of which the first three have 22 bits, so their products with k < 2^31 are exact.
// a - k part 1 is exact (its grid is 2^-8 frequency or 2^-21, its size below 2^16 frequency + 2^9); the four operations
// after it round by at most 2^-54 each, results being below 1 once b is in, or are exact. The parts end 2^-123 of a
// turn before pi / 2 does. So the reduced angle r is within 2^-52, |r| < 0.7855, and Taylor's polynomials end within
// 2^-58 of sine and cosine (r^19 / 19!, r^18 / 18!) and round by less than 2^-52.
#include "forward/angle.hpp"

#include <cmath>

namespace isologit::detail::forward {
namespace {

constexpr double kHalfPi[] = {0x1.921fb00000000p+0, 0x1.5110b00000000p-22, 0x1.1846980000000p-44,
                              0x1.3198a2e037073p-69};
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;

double sine_of(double r) {
  const double s = r * r;
  double p = 1.0 / 355687428096000.0;
  for (const double n : {1307674368000.0, 6227020800.0, 39916800.0, 362880.0, 5040.0, 120.0, 6.0}) p = 1 / n - s * p;
  return r - r * s * p;
}

double cosine_of(double r) {
  const double s = r * r;
  double p = 1.0 / 20922789888000.0;
  for (const double n : {87178291200.0, 479001600.0, 3628800.0, 40320.0, 720.0, 24.0, 2.0}) p = 1 / n - s * p;
  return 1 - s * p;
}

}  // namespace

Turn turn_of(std::int64_t position, float frequency) {
  const auto f = static_cast<double>(frequency);
  const double a = static_cast<double>(position & ~std::int64_t{0xFFFF}) * f;
  const double b = static_cast<double>(position & 0xFFFF) * f;
  const double k = std::nearbyint((a + b) * kTwoOverPi);
  double r = (a - k * kHalfPi[0]) + b;
  for (const double part : {kHalfPi[1], kHalfPi[2], kHalfPi[3]}) r -= k * part;
  const double sine = sine_of(r);
  const double cosine = cosine_of(r);
  switch (static_cast<std::int64_t>(k) & 3) {
    case 0: return {cosine, sine};
    case 1: return {-sine, cosine};
    case 2: return {-cosine, -sine};
    default: return {sine, -cosine};
  }
}

exact::SineCosine exact_turn_of(std::int64_t position, float frequency, std::size_t limbs) {
  using exact::BigFloat;
  return exact::sine_cosine(multiply(BigFloat::from_double(static_cast<double>(position)),
                                     BigFloat::from_double(static_cast<double>(frequency))),
                            limbs);
}

}  // namespace isologit::detail::forward
