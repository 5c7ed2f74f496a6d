// The frequencies of rotary embeddings, each rounded once. Balls always end: theta^(-2j/dim) is a boundary between two
// roundings, a dyadic number of 25 bits, only if theta is a power of two, and then it is a power of two or irrational.
#include <cmath>
#include <optional>
#include <vector>

#include "base/fp_env.hpp"
#include "base/text.hpp"
#include "exact/constants.hpp"
#include "exact/elementary.hpp"
#include "isologit/forward.hpp"

namespace isologit::detail::forward {
namespace {

using exact::Ball;
using exact::BigFloat;
using isologit::forward::Llama3Scaling;
using isologit::forward::YarnScaling;

Ball number(double x) { return Ball::exact(x); }

// theta^(-2j / dim).
Ball frequency(float theta, std::int64_t j, std::int64_t dim, std::size_t limbs) {
  if (j == 0) return number(1);
  const Ball ln = exact::log(number(static_cast<double>(theta)), limbs);
  const Ball exponent =
      divide(multiply(ln, number(-2.0 * static_cast<double>(j)), limbs), number(static_cast<double>(dim)), limbs);
  return exact::exp(exponent, limbs);
}

// scaled(j, frequency ball, limbs) for each j, rounded once.
template <class Scaled>
Result<std::vector<float>> frequencies(float theta, std::int64_t dim, Scaled scaled) {
  if (!(theta > 1) || std::isinf(theta)) {
    return fail(StatusCode::invalid_argument, base::concat("theta: ", theta, "; expected a finite number above 1"));
  }
  if (dim < 2 || dim % 2 != 0 || dim > 1 << 20) {
    return fail(StatusCode::invalid_argument,
                base::concat("dim: ", dim, "; expected an even number from 2 to 1048576"));
  }
  std::vector<float> result;
  for (std::int64_t j = 0; j < dim / 2; ++j) {
    for (std::size_t limbs = 3;; limbs *= 2) {
      const std::optional<Ball> value = scaled(j, frequency(theta, j, dim, limbs), limbs);
      if (!value) continue;
      if (const auto rounded = try_round(*value, exact::kF32)) {
        result.push_back(static_cast<float>(*rounded));
        break;
      }
    }
  }
  return result;
}

// Llama 3's: high frequencies stay, low ones are divided by the factor, those between are blended by where the number
// of turns over the original context lies between the two bounds (transformers, modeling_rope_utils, "llama3").
std::optional<Ball> llama3(const Llama3Scaling& s, const Ball& frequency, std::size_t limbs) {
  const Ball turns = divide(multiply(frequency, number(static_cast<double>(s.original_max_position)), limbs),
                            scale_by_power_of_two(exact::pi(limbs), 1), limbs);
  const Ball low = number(static_cast<double>(s.low_freq_factor));
  const Ball high = number(static_cast<double>(s.high_freq_factor));
  const Ball above_low = subtract(turns, low, limbs);
  const Ball above_high = subtract(turns, high, limbs);
  // pi makes both differ from 0.
  if (sign(above_low) == 0 || sign(above_high) == 0) return std::nullopt;
  if (sign(above_high) > 0) return frequency;
  const Ball slow = divide(frequency, number(static_cast<double>(s.factor)), limbs);
  if (sign(above_low) < 0) return slow;
  const Ball smooth = divide(above_low, subtract(high, low, limbs), limbs);
  return add(multiply(subtract(number(1), smooth, limbs), slow, limbs), multiply(smooth, frequency, limbs), limbs);
}

// The greatest whole number below a ball that holds none, if that is one.
std::optional<double> floor_of(const Ball& x, std::size_t limbs) {
  const exact::Approximation near = approximate(x.middle);
  const double floor = std::floor(std::ldexp(near.mantissa, static_cast<int>(near.exponent)));
  for (const double candidate : {floor - 1, floor, floor + 1}) {
    if (sign(subtract(x, number(candidate), limbs)) > 0 && sign(subtract(x, number(candidate + 1), limbs)) < 0) {
      return candidate;
    }
  }
  return std::nullopt;
}

// Where a frequency makes `turns` turns over the original context; pi makes it no whole number.
Ball place_of(const YarnScaling& s, float turns, float theta, std::int64_t dim, std::size_t limbs) {
  const Ball around = multiply(scale_by_power_of_two(exact::pi(limbs), 1), number(static_cast<double>(turns)), limbs);
  const Ball context = number(static_cast<double>(s.original_max_position));
  const Ball above = exact::log(divide(context, around, limbs), limbs);
  const Ball below = scale_by_power_of_two(exact::log(number(static_cast<double>(theta)), limbs), 1);
  return divide(multiply(above, number(static_cast<double>(dim)), limbs), below, limbs);
}

struct Ramp {
  Ball low, high;
};

std::optional<Ramp> ramp_of(const YarnScaling& s, float theta, std::int64_t dim, std::size_t limbs) {
  Ramp ramp{place_of(s, s.beta_fast, theta, dim, limbs), place_of(s, s.beta_slow, theta, dim, limbs)};
  if (s.truncate) {
    const auto low = floor_of(ramp.low, limbs);
    const auto high = floor_of(ramp.high, limbs);
    if (!low || !high) return std::nullopt;
    ramp = {number(*low), number(*high + 1)};
  }
  const Ball last = number(static_cast<double>(dim - 1));
  if (sign(ramp.low) < 0) ramp.low = number(0);
  if (sign(subtract(ramp.high, last, limbs)) > 0) ramp.high = last;
  return ramp;
}

// YaRN's (transformers, modeling_rope_utils, "yarn").
std::optional<Ball> yarn(const YarnScaling& s, const std::optional<Ramp>& ramp, std::int64_t j, const Ball& frequency,
                         std::size_t limbs) {
  if (!ramp) return std::nullopt;
  const Ball slow = divide(frequency, number(static_cast<double>(s.factor)), limbs);
  const Ball at = number(static_cast<double>(j));
  const Ball above_low = subtract(at, ramp->low, limbs);
  // At an end itself the ramp is the same by either rule.
  if (sign(above_low) < 0) return frequency;
  if (sign(subtract(at, ramp->high, limbs)) > 0) return slow;
  const Ball share = divide(above_low, subtract(ramp->high, ramp->low, limbs), limbs);
  return add(multiply(subtract(number(1), share, limbs), frequency, limbs), multiply(share, slow, limbs), limbs);
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

using detail::base::concat;

Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, float linear_factor) {
  const detail::base::FpEnvironment environment;
  if (!(linear_factor >= 1) || std::isinf(linear_factor)) {
    return fail(StatusCode::invalid_argument,
                concat("linear_factor: ", linear_factor, "; expected a finite number of at least 1"));
  }
  const auto divisor = detail::exact::Ball::exact(static_cast<double>(linear_factor));
  return detail::forward::frequencies(theta, dim, [&](std::int64_t, const detail::exact::Ball& f, std::size_t limbs) {
    return std::optional(divide(f, divisor, limbs));
  });
}

Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, const Llama3Scaling& scaling) {
  const detail::base::FpEnvironment environment;
  const bool ordered = scaling.low_freq_factor > 0 && scaling.high_freq_factor > scaling.low_freq_factor &&
                       std::isfinite(scaling.high_freq_factor);
  if (!(scaling.factor >= 1) || std::isinf(scaling.factor) || !ordered || scaling.original_max_position < 1 ||
      scaling.original_max_position > std::int64_t{1} << 31) {
    return fail(
        StatusCode::invalid_argument,
        concat("scaling: factor ", scaling.factor, ", low_freq_factor ", scaling.low_freq_factor, ", high_freq_factor ",
               scaling.high_freq_factor, ", original_max_position ", scaling.original_max_position,
               "; expected a factor of at least 1 and 0 < low_freq_factor < high_freq_factor"));
  }
  return detail::forward::frequencies(theta, dim, [&](std::int64_t, const detail::exact::Ball& f, std::size_t limbs) {
    return detail::forward::llama3(scaling, f, limbs);
  });
}

Result<std::vector<float>> rotary_frequencies(float theta, std::int64_t dim, const YarnScaling& scaling) {
  using namespace detail::forward;
  const detail::base::FpEnvironment environment;
  const bool ordered =
      scaling.beta_slow > 0 && scaling.beta_fast > scaling.beta_slow && std::isfinite(scaling.beta_fast);
  if (!(scaling.factor >= 1) || std::isinf(scaling.factor) || !ordered || scaling.original_max_position < 1 ||
      scaling.original_max_position > std::int64_t{1} << 31) {
    return fail(StatusCode::invalid_argument,
                concat("scaling: factor ", scaling.factor, ", beta_fast ", scaling.beta_fast, ", beta_slow ",
                       scaling.beta_slow, ", original_max_position ", scaling.original_max_position,
                       "; expected a factor of at least 1 and 0 < beta_slow < beta_fast"));
  }
  if (theta > 1 && dim >= 2) {
    const auto ramp = ramp_of(scaling, theta, dim, 8);
    if (!ramp || sign(subtract(ramp->high, ramp->low, 8)) <= 0) {
      return fail(StatusCode::unsupported, concat("scaling: original_max_position ", scaling.original_max_position,
                                                  " leaves no frequency between ", scaling.beta_slow, " and ",
                                                  scaling.beta_fast, " turns; expected a longer context"));
    }
  }
  return frequencies(theta, dim, [&](std::int64_t j, const detail::exact::Ball& f, std::size_t limbs) {
    return yarn(scaling, ramp_of(scaling, theta, dim, limbs), j, f, limbs);
  });
}

}  // namespace isologit::forward
