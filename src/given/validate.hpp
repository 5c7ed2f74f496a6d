// What a request of given logits must satisfy.
#pragma once

#include "isologit/given_logits.hpp"

namespace isologit::detail::given {

// Of score_given and sample_given.
Result<void> validate(const Head& head, const ScoreRequest& request, const ScoreOptions& options);
Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options);

Result<void> validate(const GivenLogitsRequest& request, const ScoreOptions& options);
// `draws` holds what both have: see given/sample_logits.cpp.
Result<void> validate(const GivenLogitsSampleRequest& request, const SampleRequest& draws, const ScoreOptions& options);
Result<void> validate(const GivenLogitsBackwardRequest& request, const BackwardOptions& options);

}  // namespace isologit::detail::given
