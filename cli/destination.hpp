// Whether a result can be written, asked before the work that makes it.
#pragma once

#include <string>

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

// The folder of `output` must take new files, and `output` must not be the input. What only writing can tell, such as
// a full disk, is told by writing.
Outcome<void> check_destination(const std::string& output, const std::string& input);

}  // namespace isologit::detail::cli
