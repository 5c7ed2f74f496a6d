// Everything a request must satisfy before anything is computed.
#pragma once

#include "isologit/backward.hpp"

namespace isologit::detail::backward {

Result<void> validate(const Head& head, const BackwardRequest& request, const BackwardOptions& options);

}  // namespace isologit::detail::backward
