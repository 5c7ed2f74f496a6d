// The logprobs of all ids of given rows. A row is read twice: for the sums below its top, and for each logit's distance
// to lse, which one subtraction settles for nearly all. What neither the f64 sums nor those in pairs of doubles prove
// is left to the rounds of score.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "isologit/given_logits.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::given {

struct OpenRow {
  std::int64_t row;
  std::vector<std::int64_t> ids;  // whose logprobs are not written
};

struct LogSoftmaxDone {
  bool cancelled = false;
  std::vector<OpenRow> open;
};

// Writes request.log_softmax for the rows with selected[i] != 0, and 0 in the others. Throws std::bad_alloc.
LogSoftmaxDone log_softmax(const GivenLogitsRequest& request, std::span<const std::uint8_t> selected,
                           const kernels::FoldLoops& loops, int threads, const std::function<bool(double)>& progress);

}  // namespace isologit::detail::given
