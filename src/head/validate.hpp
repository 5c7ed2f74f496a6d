// Everything a request must satisfy before anything is computed.
#pragma once

#include "isologit/score.hpp"

namespace isologit::head {

Result<void> validate(const Head& head, const ScoreRequest& request, const ScoreOptions& options);

}  // namespace isologit::head
