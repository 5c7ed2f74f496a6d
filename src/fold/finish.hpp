// From a row's sums to its results: the formulas of CONTRACT.md 3 in ball arithmetic, and the rounding test.
#pragma once

#include "fold/distribution.hpp"

namespace isologit::fold {

// Which of a row's results could be proven. Undecided ones take part in another round at a wider precision.
struct RowResults {
  float lse = 0;
  float logprob = 0;
  float entropy = 0;
  bool decided = true;
};

struct RowRequest {
  bool lse = false;
  bool logprob = false;
  bool entropy = false;
  float target = 0;  // the logit of the token to score
};

// A row whose top is finite. several: more than one logit is above -inf, so `rest` is positive, however small.
RowResults finish(const RelativeSums& sums, float top, bool several, const RowRequest& request, std::size_t limbs);

// The special rows of CONTRACT.md 3: first_nan >= 0, no logit above -inf, or a top of +inf. Returns whether it is one.
bool finish_special(const Distribution& state, RowResults& results);

}  // namespace isologit::fold
