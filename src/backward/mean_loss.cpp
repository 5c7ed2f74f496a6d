#include <cmath>
#include <limits>

#include "backward/derivative.hpp"
#include "base/fp_env.hpp"
#include "isologit/backward.hpp"

namespace isologit {

using exact::BigFloat;

float mean_loss(std::span<const float> logprobs, std::span<const std::int64_t> token_ids, std::int64_t ignore_index) {
  const base::FpEnvironment environment;
  BigFloat sum;
  float special = 0;  // the IEEE sum of the losses that are not finite
  std::int64_t count = 0;
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    if (!token_ids.empty() && token_ids[i] == ignore_index) continue;
    ++count;
    if (std::isfinite(logprobs[i])) {
      sum = exact::add(sum, BigFloat::from_double(-static_cast<double>(logprobs[i])));
    } else {
      special -= logprobs[i];
    }
  }
  if (count == 0 || std::isnan(special)) return exact::quiet_nan();
  if (special != 0) return special;
  return gradient::round_quotient(sum, BigFloat::from_double(static_cast<double>(count)));
}

float mean_loss_upstream(float g, std::int64_t n) {
  const base::FpEnvironment environment;
  if (n < 1 || std::isnan(g)) return exact::quiet_nan();
  if (std::isinf(g)) return -g;
  return gradient::round_quotient(BigFloat::from_double(-static_cast<double>(g)),
                                  BigFloat::from_double(static_cast<double>(n)));
}

}  // namespace isologit
