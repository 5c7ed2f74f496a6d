// isologit/summary.hpp from a row's distribution, and back to its sums.
#pragma once

#include "fold/distribution.hpp"
#include "isologit/summary.hpp"

namespace isologit::detail::fold {

// Of an ordinary distribution and the sums that f64 proved.
RowSummary summarize(const Distribution& distribution, const RelativeSums& sums);

// Of a summary with a top. The squares are not part of it.
RelativeSums relative_sums(const RowSummary& summary);

}  // namespace isologit::detail::fold
