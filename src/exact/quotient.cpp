#include "exact/quotient.hpp"

#include "exact/ball.hpp"

namespace isologit::detail::exact {

float round_quotient(const BigFloat& numerator, const BigFloat& denominator) {
  if (numerator.is_zero()) return 0.0F;
  const Ball quotient = divide(Ball{numerator, {}}, Ball{denominator, {}}, 3);
  if (const auto rounded = try_round(quotient, kF32)) return static_cast<float>(*rounded);
  // Within 2^-120 of a boundary between two roundings: exact comparison tells its side.
  const BigFloat boundary = BigFloat::from_double(try_round(quotient, boundaries_of(kF32)).value());
  const BigFloat distance = subtract(numerator, multiply(boundary, denominator));
  return static_cast<float>(round_beside(boundary, sign_of(distance), kF32));
}

}  // namespace isologit::detail::exact
