#include "cli/python_verbs.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

namespace isologit::detail::cli {
namespace {

// Takes the arguments as the package's own command does.
constexpr const char* kScript = R"(
import sys
sys.argv[0] = "isologit"
try:
    from isologit import _command
except ModuleNotFoundError as error:
    if error.name != "isologit":
        raise
    sys.exit(f"isologit: {sys.argv[1]} is in the Python package, which {sys.executable} has not: "
             "pip install 'isologit[audit]' in it, or name another Python by ISOLOGIT_PYTHON")
_command.main()
)";

}  // namespace

std::string chosen_python() {
  if (const char* named = std::getenv("ISOLOGIT_PYTHON"); named != nullptr && *named != '\0') return named;
  std::error_code error;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = own.parent_path() / "python3";
  return !error && ::access(beside.c_str(), X_OK) == 0 ? beside.string() : "python3";
}

bool is_python_verb(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (std::find(kPythonVerbs.begin(), kPythonVerbs.end(), verb) != kPythonVerbs.end()) return true;
  for (int i = 2; i < argc && verb == "verify"; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--head" || argument.starts_with("--head=")) return true;
  }
  return false;
}

Failure become_python(int argc, char** argv) {
  std::string python = chosen_python();
  std::string option = "-c";
  std::string script = kScript;
  std::vector<char*> arguments = {python.data(), option.data(), script.data()};
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  arguments.push_back(nullptr);
  ::execvp(python.c_str(), arguments.data());
  return {kExitFailure,
          fmt::format("{} is in the Python package, and '{}' cannot be run: {}; expected a Python with it: "
                      "pip install 'isologit[audit]', or name one by ISOLOGIT_PYTHON",
                      argv[1], python, std::generic_category().message(errno))};
}

}  // namespace isologit::detail::cli
