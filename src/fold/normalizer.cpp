#include "fold/normalizer.hpp"

#include <limits>

#include "exact/elementary.hpp"

namespace isologit::fold {

using exact::Ball;
using exact::BigFloat;

namespace {

std::optional<float> as_f32(std::optional<double> rounded) {
  if (!rounded) return std::nullopt;
  return static_cast<float>(*rounded);
}

}  // namespace

Normalizer::Normalizer(const RelativeSums& sums, float top, bool several, std::size_t limbs)
    : sums_(sums),
      top_(BigFloat::from_double(static_cast<double>(top))),
      excess_sign_(several ? 1 : 0),
      limbs_(limbs),
      total_(exact::add(Ball::exact(1), sums.rest, limbs + 1)),
      excess_(exact::log1p(sums.rest, limbs)) {}

std::optional<float> Normalizer::lse() const {
  return as_f32(exact::try_round_sum(top_, excess_, excess_sign_, exact::kF32));
}

std::optional<float> Normalizer::logprob(float logit) const {
  if (logit == -std::numeric_limits<float>::infinity()) return logit;
  const BigFloat gap = exact::add(BigFloat::from_double(static_cast<double>(logit)), exact::negate(top_));
  return as_f32(exact::try_round_sum(gap, exact::negate(excess_), -excess_sign_, exact::kF32));
}

std::optional<float> Normalizer::entropy() const {
  // H = -sum p ln p with p = e^(z - top) / (1 + rest): ln(1 + rest) + moment / (1 + rest), both terms positive.
  const Ball weighted = exact::divide(sums_.moment, total_, limbs_);
  return as_f32(exact::try_round(exact::add(excess_, weighted, limbs_), exact::kF32));
}

std::optional<float> Normalizer::sum_p2() const {
  const Ball squares = exact::add(Ball::exact(1), sums_.squares, limbs_ + 1);
  return as_f32(
      exact::try_round(exact::divide(squares, exact::multiply(total_, total_, limbs_ + 1), limbs_), exact::kF32));
}

std::optional<float> Normalizer::log_share(const Normalizer& others) const {
  // With K this mass and D the others', both e^top (1 + rest): ln K / (K + D) = -ln(1 + D / K), D / K = e^m q.
  const BigFloat m = exact::add(others.top_, exact::negate(top_));
  const bool ahead = m.is_zero() || m.negative;
  const BigFloat gap = ahead ? m : exact::negate(m);  // -|m|
  const Ball ratio =
      ahead ? exact::divide(others.total_, total_, limbs_) : exact::divide(total_, others.total_, limbs_);
  // e^-|m| q; where |m| is beyond counting, anything in (0, q e^-reach].
  const double reach = 64.0 * static_cast<double>(limbs_) + 256;
  Ball small;
  if (exact::compare_magnitude(gap, BigFloat::from_double(reach)) > 0) {
    const exact::Bound half =
        exact::magnitude(ratio) * exact::Bound::power_of_two(-92 * static_cast<std::int64_t>(limbs_ + 4) - 1);
    small = {exact::to_bigfloat(half), half};
  } else {
    small = exact::multiply(exact::exp(Ball{gap, {}}, limbs_), ratio, limbs_);
  }
  const Ball log_one_plus = exact::log1p(small, limbs_);
  if (ahead) return as_f32(exact::try_round_sum(BigFloat{}, exact::negate(log_one_plus), -1, exact::kF32));
  // -ln(1 + D/K) = -m - ln(D/K e^-m) - ln(1 + K/D), the middle one being the difference of the two excesses.
  const Ball difference = exact::subtract(excess_, others.excess_, limbs_);
  if (excess_sign_ == 0 && others.excess_sign_ == 0) {
    return as_f32(exact::try_round_sum(gap, exact::negate(log_one_plus), -1, exact::kF32));
  }
  const Ball delta = exact::subtract(difference, log_one_plus, limbs_);
  const int sign = exact::sign(delta);
  if (sign == 0) return std::nullopt;
  return as_f32(exact::try_round_sum(gap, delta, sign, exact::kF32));
}

}  // namespace isologit::fold
