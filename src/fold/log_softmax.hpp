// One logprob from the greatest logit and the excess of lse over it, where one subtraction in f64 does not settle it.
#pragma once

#include <optional>

#include "kernels/fold_loops.hpp"

namespace isologit::detail::fold {

// z - (top + excess) rounded once, for a finite z; nothing where the excess is not known well enough.
std::optional<float> logprob(float z, float top, const kernels::Excess& excess);

}  // namespace isologit::detail::fold
