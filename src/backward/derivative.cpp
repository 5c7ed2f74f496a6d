#include "backward/derivative.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "exact/elementary.hpp"
#include "exact/two_sum.hpp"
#include "fold/pair_sums.hpp"

namespace isologit::detail::backward {
namespace {

using exact::Ball;
using exact::BigFloat;
using exact::Bound;

constexpr int kUnknown = 2;  // a sign that the ball does not prove

double near(const BigFloat& x) { return exact::round(x, exact::kF64); }

BigFloat of(float x) { return BigFloat::from_double(static_cast<double>(x)); }

bool is_zero(const Ball& x) { return x.middle.is_zero() && x.radius.is_zero(); }

// numerator / denominator + delta, denominator > 0.
struct Parts {
  BigFloat numerator;
  BigFloat denominator;
  Ball delta;
  int sign = 0;  // of delta: 0 when it is exactly 0
};

int proven_sign(const Ball& x) {
  const int sign = exact::sign(x);
  return sign != 0 ? sign : kUnknown;
}

// The same with a radius not so far below the middle that the ends of the ball would need endless bits.
Ball tidy(Ball x, std::size_t limbs) {
  if (x.radius.is_zero() || x.middle.is_zero()) return x;
  const std::int64_t least = exact::highest_bit(x.middle) - 64 * static_cast<std::int64_t>(limbs + 2);
  if (x.radius.exponent < least) x.radius = Bound::power_of_two(least);
  return x;
}

// The sign of epsilon B + k c E/s where B and c have opposite signs and all gaps are so great that e^-gap is beyond any
// precision. With g the least gap and sums in units of e^-g, E/s is E/k but for a share below epsilon, and what is left
// is a sum of (B + c d) e^-(d - g).
int opposed_sign(const fold::RowSums& sums, float top, const Upstream& upstream, std::size_t limbs) {
  const fold::NearSums& near = sums.near;
  if (near.mass.middle.is_zero()) return kUnknown;
  const BigFloat c = of(upstream.c);
  const BigFloat gap = exact::add(of(top), exact::negate(of(near.second)));
  if (exact::add(upstream.b, exact::multiply(c, gap)).is_zero()) {
    // B = -c g, and s / k times the expression is c (sum of (d - g) e^-d over the others - g epsilon^2 / k). Logits
    // differ by 2^-149 or more and gaps are below 2^130, so e^512 outweighs all factors. (A gap nearer
    // to 2 g than that takes as many bits as g has nats.)
    const int c_sign = sign_of(c);
    if (near.third == -std::numeric_limits<float>::infinity()) return -c_sign;
    const BigFloat next_gap = exact::add(of(top), exact::negate(of(near.third)));
    const BigFloat beyond = exact::add(next_gap, exact::negate(exact::scale_by_power_of_two(gap, 1)));
    if (!beyond.is_zero() && exact::highest_bit(beyond) >= 9) return beyond.negative ? c_sign : -c_sign;
  }
  const Ball c_moment = exact::multiply(Ball{c, {}}, near.moment, limbs);
  Ball sum = exact::add(exact::multiply(Ball{upstream.b, {}}, near.mass, limbs), c_moment, limbs);
  sum.radius = sum.radius + exact::magnitude(c_moment) * exact::magnitude(sums.mass);
  return proven_sign(tidy(std::move(sum), limbs));
}

Parts parts_of(const fold::RowSums& sums, float top, float z, const Upstream& upstream, std::size_t limbs) {
  Parts parts{upstream.a, BigFloat::from_double(1), {}, 0};
  if (upstream.mean != 0) {
    parts.denominator = BigFloat::from_double(static_cast<double>(upstream.support));
    parts.numerator = exact::add(exact::multiply(upstream.a, parts.denominator), of(upstream.mean));
  }
  if (z == -std::numeric_limits<float>::infinity()) return parts;
  const int c_sign = upstream.c > 0 ? 1 : upstream.c < 0 ? -1 : 0;
  const int b_sign = sign_of(upstream.b);
  const Ball c{of(upstream.c), {}};
  const Ball k = Ball::exact(static_cast<double>(sums.ties));
  const Ball total = tidy(exact::add(k, sums.mass, limbs), limbs);
  const Ball mean_gap = tidy(exact::divide(sums.moment, total, limbs), limbs);
  if (z == top) {
    parts.numerator =
        exact::add(exact::multiply(parts.numerator, k.middle), exact::multiply(upstream.b, parts.denominator));
    parts.denominator = exact::multiply(parts.denominator, k.middle);
    if (!sums.others || (b_sign == 0 && c_sign == 0)) return parts;
    const Ball first = exact::multiply(sums.mass, Ball{upstream.b, {}}, limbs);
    const Ball second = exact::multiply(exact::multiply(k, c, limbs), mean_gap, limbs);
    const Ball sum = tidy(exact::negate(exact::add(first, second, limbs)), limbs);
    parts.delta = tidy(exact::divide(sum, exact::multiply(k, total, limbs), limbs), limbs);
    // Two terms of known signs, for when both are below all granularity.
    if (b_sign * c_sign >= 0) {
      parts.sign = -(b_sign != 0 ? b_sign : c_sign);
      return parts;
    }
    parts.sign = proven_sign(parts.delta);
    if (parts.sign != kUnknown) return parts;
    const int opposed = opposed_sign(sums, top, upstream, limbs);
    if (opposed != kUnknown) parts.sign = -opposed;
    return parts;
  }
  const BigFloat gap = exact::add(of(top), exact::negate(of(z)));
  const BigFloat fixed = exact::add(upstream.b, exact::multiply(c.middle, gap));
  if (fixed.is_zero() && c_sign == 0) return parts;
  const Ball bracket = tidy(exact::subtract(Ball{fixed, {}}, exact::multiply(c, mean_gap, limbs), limbs), limbs);
  parts.delta = exact::multiply(exact::divide(fold::exp_minus(gap, limbs), total, limbs), bracket, limbs);
  parts.sign = fixed.is_zero() ? -c_sign : proven_sign(bracket);
  return parts;
}

void scale(Parts& parts, const Factors& factors, std::size_t limbs) {
  const Transforms& transforms = factors.transforms;
  const auto times = [&](float x) {
    parts.numerator = exact::multiply(parts.numerator, of(x));
    parts.delta = exact::multiply(parts.delta, Ball{of(x), {}}, limbs);
    if (x < 0 && parts.sign != kUnknown) parts.sign = -parts.sign;
  };
  const auto over = [&](float x) {
    parts.denominator = exact::multiply(parts.denominator, of(x));
    if (!is_zero(parts.delta)) parts.delta = exact::divide(parts.delta, Ball{of(x), {}}, limbs);
  };
  if (transforms.scale_kind == ScaleKind::multiply) times(transforms.scale);
  if (transforms.scale_kind == ScaleKind::divide) over(transforms.scale);
  if (factors.temperature != 1) over(factors.temperature);
}

// RN32 of the parts.
std::optional<float> round(const Parts& parts, std::size_t limbs) {
  const auto narrowed = [](std::optional<double> x) {
    return x ? std::optional<float>(static_cast<float>(*x)) : std::nullopt;
  };
  if (parts.numerator.is_zero()) return narrowed(exact::try_round(parts.delta, exact::kF32));
  const bool rational = is_zero(parts.delta);
  Ball near_sum = exact::divide(Ball{parts.numerator, {}}, Ball{parts.denominator, {}}, limbs);
  if (!rational) {
    // Far down its bits would only cost memory: there it counts as its bound.
    const Bound size = exact::magnitude(parts.delta);
    const bool far = size.exponent < -4096;
    near_sum = exact::add(near_sum, far ? Ball{BigFloat{}, Bound::power_of_two(-4095)} : parts.delta, limbs);
  }
  if (const auto rounded = exact::try_round(near_sum, exact::kF32)) return narrowed(rounded);
  // If only one boundary between roundings is near, the sum's side of it decides: by exact arithmetic, unless delta
  // weighs as much as the distance of the rational part.
  const std::optional<double> nearest = exact::try_round(near_sum, exact::boundaries_of(exact::kF32));
  if (!nearest || std::isinf(*nearest)) return std::nullopt;
  const BigFloat boundary = BigFloat::from_double(*nearest);
  const BigFloat distance = exact::add(parts.numerator, exact::negate(exact::multiply(boundary, parts.denominator)));
  int side = parts.sign;
  if (!distance.is_zero()) {
    const Bound change = exact::magnitude(parts.delta) * Bound::of(parts.denominator);
    if (!change.is_zero() && change.exponent + 1 >= exact::highest_bit(distance)) return std::nullopt;
    side = sign_of(distance);
  } else if (side == kUnknown) {
    return std::nullopt;
  }
  return static_cast<float>(exact::round_beside(boundary, side, exact::kF32));
}

// tanh(x) and 1 - tanh(x)^2 from e^-2x, x > 0. The former is relatively accurate for small x as well.
struct Cap {
  Ball tanh;
  Ball slope;
};

Cap cap_at(float z0, float softcap, std::size_t limbs) {
  const BigFloat size = of(std::fabs(z0));
  const std::int64_t magnitude = exact::highest_bit(size) - exact::highest_bit(of(softcap));
  const std::size_t wide = limbs + 2 + static_cast<std::size_t>(std::max<std::int64_t>(0, -magnitude) / 64);
  const Ball x = exact::divide(Ball{size, {}}, Ball{of(softcap), {}}, wide);
  const Ball e = exact::exp(exact::scale_by_power_of_two(exact::negate(x), 1), wide);
  const Ball one = Ball::exact(1);
  const Ball sum = exact::add(one, e, wide);
  const Ball slope = exact::divide(exact::scale_by_power_of_two(e, 2), exact::multiply(sum, sum, wide), limbs);
  return {exact::divide(exact::subtract(one, e, wide), sum, limbs), slope};
}

// Applies the slope of the softcap at z0 and rounds.
std::optional<float> round_capped(Parts parts, float z0, const Transforms& transforms, std::size_t limbs) {
  if (!transforms.has_softcap || z0 == 0) return round(parts, limbs);
  if (parts.numerator.is_zero() && is_zero(parts.delta)) return 0.0F;
  const double x = std::fabs(static_cast<double>(z0)) / static_cast<double>(transforms.softcap);
  // The slope is below 4 e^-2x, and dz before it below 2^600, whatever the parameters.
  if (x > 1000) return 0.0F;
  const Cap cap = cap_at(z0, transforms.softcap, limbs);
  const Ball rational = exact::divide(Ball{parts.numerator, {}}, Ball{parts.denominator, {}}, limbs);
  const Ball whole = parts.numerator.is_zero() ? parts.delta : exact::add(rational, parts.delta, limbs);
  if (x >= 0.5 || parts.numerator.is_zero()) {
    const auto rounded = exact::try_round(exact::multiply(whole, cap.slope, limbs), exact::kF32);
    return rounded ? std::optional<float>(static_cast<float>(*rounded)) : std::nullopt;
  }
  const Ball tau = exact::multiply(cap.tanh, cap.tanh, limbs);
  parts.delta = exact::subtract(parts.delta, exact::multiply(tau, whole, limbs), limbs);
  parts.sign = proven_sign(parts.delta);
  return round(parts, limbs);
}

// 1 - tanh^2 as in kernels::BackwardLoops::dz; libm's exp is right to within an ulp or two.
double slope_at(float z0, double two_over_softcap) {
  const double s = std::exp(-std::fmin(std::fabs(static_cast<double>(z0)) * two_over_softcap, 740.0));
  return 4 * s / ((1 + s) * (1 + s));
}

}  // namespace

double slope_of(const Factors& factors, float z0) {
  return slope_at(z0, 2 / static_cast<double>(factors.transforms.softcap));
}

double factor_of(const Factors& factors) {
  const Transforms& transforms = factors.transforms;
  double factor = 1 / static_cast<double>(factors.temperature);
  if (transforms.scale_kind == ScaleKind::multiply) factor *= static_cast<double>(transforms.scale);
  if (transforms.scale_kind == ScaleKind::divide) factor /= static_cast<double>(transforms.scale);
  return factor;
}

std::optional<kernels::DzRow> dz_row(const fold::RowSums& sums, float top, const Upstream& upstream,
                                     const Factors& factors, bool exact) {
  if (sums.limbs == 0) return std::nullopt;
  const auto upper = [](const Bound& bound) {
    return bound.exponent < -1000 ? 0x1p-999 : std::ldexp(bound.mantissa, static_cast<int>(bound.exponent));
  };
  kernels::DzRow row;
  row.top = static_cast<double>(top);
  row.mass = near(sums.mass.middle);
  double moment = near(sums.moment.middle);
  double moment_error = upper(sums.moment.radius);
  // With the roundings of mass, total and its inverse. No dz depends on a mass below the least one here.
  row.error = upper(sums.mass.radius) / std::fmax(row.mass, 0x1p-990) + 0x1p-50;
  if (!exact) {
    constexpr exact::Format kRounded{34, -800, exact::kF64.emax};  // what is below counts for no dz
    const auto rounded_mass = exact::try_round(sums.mass, kRounded);
    const auto rounded_moment = exact::try_round(sums.moment, kRounded);
    if (!rounded_mass || !rounded_moment) return std::nullopt;
    row.mass = *rounded_mass;
    moment = *rounded_moment;
    row.error = 0x1p-33;
    moment_error = moment * row.error;
  }
  const double total = static_cast<double>(sums.ties) + row.mass;
  row.inverse_total = 1 / total;
  row.mean_gap = moment / total;
  row.mean_gap_error = moment_error / total + row.mean_gap * row.error;
  row.b = near(upstream.b);
  row.b_error = std::fabs(row.b) * 0x1p-50;
  row.c = static_cast<double>(upstream.c);
  row.mean = static_cast<double>(upstream.mean) / static_cast<double>(upstream.support);
  row.factor = factor_of(factors);
  if (factors.transforms.has_softcap) row.two_over_softcap = 2 / static_cast<double>(factors.transforms.softcap);
  return row;
}

Estimate estimate_dz(const kernels::DzRow& row, std::int64_t ties, const Logit& logit, double a, double a_plus_b) {
  double slope = row.factor;
  if (row.two_over_softcap != 0) slope *= slope_at(logit.uncapped, row.two_over_softcap);
  double value = a + row.mean;
  double error = (std::fabs(a) + std::fabs(row.mean)) * 0x1p-52;
  const double gap = row.top - static_cast<double>(logit.last);
  if (gap > 0) {
    const double d = std::fmin(gap, 740.0);
    const double p = std::exp(-d) * row.inverse_total;
    const double bracket = row.b + row.c * (d - row.mean_gap);
    value += p * bracket;
    error +=
        p * (std::fabs(bracket) * 2 * row.error + row.b_error + std::fabs(row.c) * (d * 0x1p-50 + row.mean_gap_error));
  } else {
    const auto k = static_cast<double>(ties);
    const double rest = ties == 1 ? a_plus_b : a + row.b / k;
    const double main = rest + row.mean;
    const double first = row.mass * row.b / k;
    const double second = row.c * row.mean_gap;
    value = main - (first + second) * row.inverse_total;
    error = (std::fabs(first) + std::fabs(second)) * row.inverse_total * 2 * row.error +
            std::fabs(row.c) * row.mean_gap_error * row.inverse_total +
            (std::fabs(rest) + std::fabs(row.mean)) * 0x1p-51;
    if (ties > 1) error += (std::fabs(a) + row.b_error) * 0x1p-50 + row.b_error;
  }
  value *= slope;
  return {value, error * std::fabs(slope) + std::fabs(value) * 0x1p-41};
}

bool settle(const Estimate& estimate, bool exact, float& dz) {
  if (!exact) {
    dz = static_cast<float>(estimate.value) + 0.0F;
    const double size = std::fabs(estimate.value);
    return estimate.error <= size * 0x1p-19 || size + estimate.error <= 0x1p-151;
  }
  dz = static_cast<float>(estimate.value - estimate.error) + 0.0F;
  return dz == static_cast<float>(estimate.value + estimate.error) + 0.0F;
}

std::optional<float> exact_dz(const fold::RowSums& sums, float top, const Logit& logit, const Upstream& upstream,
                              const Factors& factors, std::size_t limbs) {
  Parts parts = parts_of(sums, top, logit.last, upstream, limbs);
  scale(parts, factors, limbs);
  return round_capped(std::move(parts), logit.uncapped, factors.transforms, limbs);
}

float exact_dz_of_logit(float g, float z0, const Factors& factors) {
  for (std::size_t limbs = 3;; limbs *= 2) {
    Parts parts{of(g), BigFloat::from_double(1), {}, 0};
    scale(parts, factors, limbs);
    if (const auto dz = round_capped(std::move(parts), z0, factors.transforms, limbs)) return *dz;
  }
}

}  // namespace isologit::detail::backward
