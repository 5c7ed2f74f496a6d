#include "cli/summary.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fp_env.hpp"
#include "exact/elementary.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::cli {
namespace {

using exact::Ball;
using exact::BigFloat;

BigFloat exact_sum(std::span<const float> values) {
  exact::Superaccumulator accumulator;
  for (float value : values) accumulator.add(static_cast<double>(value));
  // The register gives out rounded sums only: take away what was given until nothing is left.
  BigFloat sum;
  while (!accumulator.is_zero()) {
    const double part = accumulator.round(exact::kF64);
    accumulator.add(-part);
    sum = exact::add(sum, BigFloat::from_double(part));
  }
  return sum;
}

// RN64(sum / count). Unlike an exponential, a quotient can be a midpoint of two doubles.
double round_quotient(const BigFloat& sum, const BigFloat& count) {
  const Ball quotient = exact::divide({sum, {}}, {count, {}}, 4);
  const double low = exact::round(exact::lower(quotient), exact::kF64);
  const double high = exact::round(exact::upper(quotient), exact::kF64);
  if (low == high) return low;
  // So narrow a ball holds one midpoint; the quotient is on one side of it, or it.
  const BigFloat midpoint =
      exact::scale_by_power_of_two(exact::add(BigFloat::from_double(low), BigFloat::from_double(high)), -1);
  const BigFloat beyond = exact::add(sum, exact::negate(exact::multiply(midpoint, count)));
  if (beyond.is_zero()) return exact::round(midpoint, exact::kF64);
  return beyond.negative ? low : high;
}

double round_perplexity(const BigFloat& sum, const BigFloat& count, double mean) {
  if (sum.is_zero()) return 1;
  if (mean < -710) return std::numeric_limits<double>::infinity();  // the largest double is below e^709.79
  // e to a rational power other than 0 is transcendental, so it is no midpoint and this ends.
  for (std::size_t limbs = 4;; limbs *= 2) {
    const Ball exponent = exact::negate(exact::divide({sum, {}}, {count, {}}, limbs));
    if (const auto rounded = exact::try_round(exact::exp(exponent, limbs), exact::kF64)) return *rounded;
  }
}

Summary summarise_finite(std::span<const float> logprobs) {
  const BigFloat sum = exact_sum(logprobs);
  const BigFloat count = BigFloat::from_double(static_cast<double>(logprobs.size()));
  const double mean = round_quotient(sum, count);
  return {mean, round_perplexity(sum, count, mean)};
}

}  // namespace

std::optional<Summary> summarise(std::span<const float> logprobs) {
  if (logprobs.empty()) return std::nullopt;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto any = [&](auto&& test) { return std::any_of(logprobs.begin(), logprobs.end(), test); };
  if (any([](float x) { return std::isnan(x); })) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    return Summary{kNan, kNan};
  }
  if (any([](float x) { return std::isinf(x); })) return Summary{-kInfinity, kInfinity};
  const base::FpEnvironment environment;
  return summarise_finite(logprobs);
}

}  // namespace isologit::detail::cli
