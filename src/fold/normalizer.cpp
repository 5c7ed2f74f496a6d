#include "fold/normalizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exact/elementary.hpp"

namespace isologit::detail::fold {

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

kernels::Excess Normalizer::excess() const {
  constexpr double kLeast = 0x1p-1000;  // a real excess below it is below 2^-150 as well
  const double low = exact::round(exact::lower(excess_), exact::kF64);
  const double high = exact::round(exact::upper(excess_), exact::kF64);
  // One step outwards for the rounding.
  return {std::max(std::nextafter(low, 0.0), kLeast), std::max(std::nextafter(high, 2 * high), kLeast)};
}

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
  const Ball delta = exact::subtract(exact::subtract(excess_, others.excess_, limbs_), log_one_plus, limbs_);
  const int sign = excess_sign_ == 0 ? -1 : exact::sign(delta);
  if (sign != 0) return as_f32(exact::try_round_sum(gap, delta, sign, exact::kF32));
  // Only where -m is a midpoint does the sign of a small delta matter.
  const auto below = exact::try_round_sum(gap, delta, -1, exact::kF32);
  const auto above = exact::try_round_sum(gap, delta, 1, exact::kF32);
  if (!below || !above) return std::nullopt;
  if (*below == *above) return as_f32(below);
  const int dominant = sign_of_excess_over(others);
  if (dominant == 0) return std::nullopt;
  return as_f32(dominant < 0 ? below : above);
}

// e^delta = (1 + R_K) / (1 + R_D + e^-m (1 + R_K)), so delta has the sign of R_K - R_D - e^-m (1 + R_K), a sum of
// exponentials of exact gaps. Where one exponent leads the others by more than ln of any number of terms, its sign is
// the sum's.
int Normalizer::sign_of_excess_over(const Normalizer& others) const {
  constexpr double kLead = 64;
  const auto exponent = [](const Normalizer& x) {
    return exact::add(BigFloat::from_double(static_cast<double>(x.sums_.second)), exact::negate(x.top_));
  };
  if (!std::isfinite(sums_.second)) return 0;
  const BigFloat plus = exponent(*this);
  BigFloat minus = exact::add(top_, exact::negate(others.top_));
  if (std::isfinite(others.sums_.second)) {
    const BigFloat other = exponent(others);
    const BigFloat difference = exact::add(other, exact::negate(minus));
    if (!difference.negative && !difference.is_zero()) minus = other;
  }
  const BigFloat lead = exact::add(plus, exact::negate(minus));
  if (exact::compare_magnitude(lead, BigFloat::from_double(kLead)) <= 0) return 0;
  return lead.negative ? -1 : 1;
}

}  // namespace isologit::detail::fold
