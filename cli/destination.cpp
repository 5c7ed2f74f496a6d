#include "cli/destination.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace isologit::detail::cli {

Outcome<void> check_destination(const std::string& output, const std::string& input) {
  std::error_code ignored;
  if (std::filesystem::equivalent(output, input, ignored)) {
    return usage_error(fmt::format("--output: '{}' is the input; name another file", output));
  }
  std::filesystem::path folder = std::filesystem::path(output).parent_path();
  if (folder.empty()) folder = ".";
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return failure(fmt::format("--output: cannot write to folder '{}': {}", folder.string(),
                               std::generic_category().message(errno)));
  }
  return {};
}

}  // namespace isologit::detail::cli
