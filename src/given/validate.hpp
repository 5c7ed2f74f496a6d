// What a request of given logits must satisfy.
#pragma once

#include "isologit/given_logits.hpp"

namespace isologit::detail::given {

Result<void> validate(const GivenLogitsRequest& request, const ScoreOptions& options);
Result<void> validate(const GivenLogitsBackwardRequest& request, const BackwardOptions& options);

}  // namespace isologit::detail::given
