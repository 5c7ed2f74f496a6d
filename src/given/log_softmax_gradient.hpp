// dz of a dense upstream g of log_softmax: dz_v = (g_v - p_v G) / T with G the sum of g, rounded once.
#pragma once

#include <functional>

#include "given/target.hpp"
#include "isologit/given_logits.hpp"

namespace isologit::detail::given {

struct LogSoftmaxGradientDone {
  bool cancelled = false;
  std::int64_t rows = 0;       // that contribute
  std::int64_t fallbacks = 0;  // dz settled in multiple precision
};

// Writes request.dlogits. Throws std::bad_alloc.
LogSoftmaxGradientDone log_softmax_gradient(const GivenLogitsBackwardRequest& request, const GivenTarget& target,
                                            int threads, const std::function<bool(double)>& progress);

}  // namespace isologit::detail::given
