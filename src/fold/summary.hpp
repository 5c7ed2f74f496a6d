// isologit/summary.hpp from a row's distribution, and back to its sums.
#pragma once

#include "fold/distribution.hpp"
#include "isologit/summary.hpp"

namespace isologit::fold {

RowSummary summarize(const Distribution& distribution);

// Of a summary with a top. The squares are not part of it.
RelativeSums relative_sums(const RowSummary& summary);

}  // namespace isologit::fold
