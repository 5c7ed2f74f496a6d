// Everything a sampling request must satisfy before anything is computed.
#pragma once

#include "isologit/sample.hpp"

namespace isologit::detail::sample {

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options);

}  // namespace isologit::detail::sample
