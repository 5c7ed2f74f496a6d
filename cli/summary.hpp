// The mean of log-probabilities and their perplexity, each a real number rounded once to f64.
#pragma once

#include <optional>
#include <span>

namespace isologit::detail::cli {

struct Summary {
  double mean;        // RN64(sum of the values / their number)
  double perplexity;  // RN64(exp(-that real mean)): of the mean itself, not of its rounding
};

// Nothing when there are no values. Values are what scoring gives: below or equal to 0, or NaN. A NaN makes both NaN;
// else a value of -inf makes the mean -inf and the perplexity +inf. The perplexity may be +inf by overflow as well.
std::optional<Summary> summarise(std::span<const float> logprobs);

}  // namespace isologit::detail::cli
