#include "fold/log_softmax.hpp"

#include "exact/two_sum.hpp"

namespace isologit::detail::fold {

std::optional<float> logprob(float z, float top, const kernels::Excess& excess) {
  const exact::TwoSum gap = exact::two_sum(static_cast<double>(z), -static_cast<double>(top));
  if (gap.low != 0) return std::nullopt;  // their exponents are far apart
  // The ends of the interval; a number between them rounds between their roundings.
  const auto low = static_cast<float>(exact::to_odd(gap.high, -excess.high));
  const auto high = static_cast<float>(exact::to_odd(gap.high, -excess.low));
  if (low != high) return std::nullopt;
  return high + 0.0F;
}

}  // namespace isologit::detail::fold
