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

Ball number(double x) { return Ball::exact(x); }

// theta^(-2j / dim).
Ball frequency(float theta, std::int64_t j, std::int64_t dim, std::size_t limbs) {
  if (j == 0) return number(1);
  const Ball ln = exact::log(number(static_cast<double>(theta)), limbs);
  const Ball exponent =
      divide(multiply(ln, number(-2.0 * static_cast<double>(j)), limbs), number(static_cast<double>(dim)), limbs);
  return exact::exp(exponent, limbs);
}

// scaled(frequency ball, limbs) for each j, rounded once.
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
      const std::optional<Ball> value = scaled(frequency(theta, j, dim, limbs), limbs);
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
  return detail::forward::frequencies(theta, dim, [&](const detail::exact::Ball& f, std::size_t limbs) {
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
  return detail::forward::frequencies(theta, dim, [&](const detail::exact::Ball& f, std::size_t limbs) {
    return detail::forward::llama3(scaling, f, limbs);
  });
}

}  // namespace isologit::forward
