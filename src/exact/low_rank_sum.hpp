// The terms of a low-rank addition in the sum of a logit.
#pragma once

#include "exact/bigfloat.hpp"
#include "exact/logit.hpp"

namespace isologit::detail::exact {

// Adds them: those that are finite, and to `special` the IEEE values of the others.
void add_terms(const LowRankTerms& terms, BigFloat& finite, double& special);

}  // namespace isologit::detail::exact
