#include "exact/quotient.hpp"

#include "exact/ball.hpp"

namespace isologit::detail::exact {

float round_quotient(const BigFloat& numerator, const BigFloat& denominator) {
  if (numerator.is_zero()) return 0.0F;
  const Ball quotient = divide(Ball{numerator, {}}, Ball{denominator, {}}, 3);
  if (const auto rounded = try_round(quotient, kF32)) return static_cast<float>(*rounded);
  // Within 2^-120 of a boundary between two roundings, a number with one bit more: exact comparison tells its side.
  constexpr Format kBoundaries{kF32.precision + 1, kF32.emin, kF32.emax};
  BigFloat nudged = BigFloat::from_double(try_round(quotient, kBoundaries).value());
  const BigFloat distance = add(numerator, negate(multiply(nudged, denominator)));
  if (!distance.is_zero()) {
    BigFloat nudge = BigFloat::power_of_two(-1000);
    nudge.negative = distance.negative;
    nudged = add(nudged, nudge);
  }
  return static_cast<float>(round(nudged, kF32));
}

}  // namespace isologit::detail::exact
