// Verbs that are in the Python package.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

inline constexpr std::array<std::string_view, 3> kPythonVerbs = {"audit", "capture", "integrations"};

// Whether the command line asks for one of them, or for verify --head.
bool is_python_verb(int argc, char** argv);

// ISOLOGIT_PYTHON, the python3 beside this command, or that of PATH.
std::string chosen_python();

// Becomes that Python, which runs it, and returns only if there is none.
Failure become_python(int argc, char** argv);

}  // namespace isologit::detail::cli
