#include "fold/ball_sums.hpp"

#include "base/asking.hpp"
#include "exact/elementary.hpp"

namespace isologit::detail::fold {

using exact::Ball;
using exact::BigFloat;

BigFloat gap_below(float top, float z) {
  return exact::add(BigFloat::from_double(static_cast<double>(top)), BigFloat::from_double(-static_cast<double>(z)));
}

Ball exp_minus(const BigFloat& gap, std::size_t limbs) {
  if (!gap.is_zero() && exact::highest_bit(gap) >= 50)
    return {BigFloat{}, exact::Bound::power_of_two(-(std::int64_t{1} << 50))};
  return exact::exp(Ball{exact::negate(gap), {}}, limbs);
}

Ball far_share(std::int64_t far, std::int64_t exponent) {
  if (far == 0) return {};
  const exact::Bound half = exact::Bound::power_of_two(exponent - 1) * exact::Bound{static_cast<double>(far), 0};
  return {exact::to_bigfloat(half), half};
}

Ball BallSums::add(const BigFloat& gap) {
  base::go_on_or_throw();
  Ball term = exp_minus(gap, limbs);
  mass = exact::add(mass, term, limbs);
  moment = exact::add(moment, exact::multiply(term, Ball{gap, {}}, limbs), limbs);
  return term;
}

void BallSums::merge(const BallSums& other) {
  far += other.far;
  mass = exact::add(mass, other.mass, limbs);
  moment = exact::add(moment, other.moment, limbs);
}

}  // namespace isologit::detail::fold
