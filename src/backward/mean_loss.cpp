#include <cmath>
#include <limits>

#include "base/fp_env.hpp"
#include "exact/quotient.hpp"
#include "isologit/backward.hpp"

namespace isologit {
namespace {

namespace base = detail::base;
namespace exact = detail::exact;
using exact::BigFloat;

struct Losses {
  BigFloat sum;
  float special = 0;  // the IEEE sum of those that are not finite
  std::int64_t count = 0;

  float over(std::int64_t n) const {
    if (std::isnan(special)) return exact::quiet_nan();
    if (special != 0) return special;
    return exact::round_quotient(sum, BigFloat::from_double(static_cast<double>(n)));
  }
};

Losses losses_of(std::span<const float> logprobs, std::span<const std::int64_t> token_ids, std::int64_t ignore_index) {
  Losses losses;
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    if (!token_ids.empty() && token_ids[i] == ignore_index) continue;
    ++losses.count;
    if (std::isfinite(logprobs[i])) {
      losses.sum = exact::add(losses.sum, BigFloat::from_double(-static_cast<double>(logprobs[i])));
    } else {
      losses.special -= logprobs[i];
    }
  }
  return losses;
}

}  // namespace

float mean_loss(std::span<const float> logprobs, std::span<const std::int64_t> token_ids, std::int64_t ignore_index) {
  const base::FpEnvironment environment;
  const Losses losses = losses_of(logprobs, token_ids, ignore_index);
  return losses.count == 0 ? exact::quiet_nan() : losses.over(losses.count);
}

float sum_loss(std::span<const float> logprobs, std::span<const std::int64_t> token_ids, std::int64_t ignore_index) {
  const base::FpEnvironment environment;
  return losses_of(logprobs, token_ids, ignore_index).over(1);
}

float mean_loss_upstream(float g, std::int64_t n) {
  const base::FpEnvironment environment;
  if (n < 1 || std::isnan(g)) return exact::quiet_nan();
  if (std::isinf(g)) return -g;
  return exact::round_quotient(BigFloat::from_double(-static_cast<double>(g)),
                               BigFloat::from_double(static_cast<double>(n)));
}

}  // namespace isologit
