// Verbs that are in the Python package.
#pragma once

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

// Whether the command line asks for one: audit, capture, integrations, verify --head.
bool is_python_verb(int argc, char** argv);

// Becomes a Python that runs it, and returns only if there is none: ISOLOGIT_PYTHON, the python3 beside this command,
// or that of PATH.
Failure become_python(int argc, char** argv);

}  // namespace isologit::detail::cli
