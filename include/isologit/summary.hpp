// What a forward pass can leave to the backward one about a row, so that it need not pass over the weight for it again.
#pragma once

#include <limits>

namespace isologit {

// Of a row's logits z, after temperature, over its support: the greatest, and two sums over all others. Errors are
// proven bounds. The top is NaN where there is no summary: in rows that were not computed, that are special by
// CONTRACT.md 3 or hold their top more than once, and where f64 could not hold the sums.
struct RowSummary {
  double top = std::numeric_limits<double>::quiet_NaN();
  double mass = 0;  // sum of e^(z - top)
  double mass_error = 0;
  double moment = 0;  // sum of e^(z - top) (top - z)
  double moment_error = 0;
};

}  // namespace isologit
