// How a verb ends: the text for standard output, or an exit code and a message for standard error.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

#include "isologit/status.hpp"

namespace isologit::detail::cli {

inline constexpr int kExitFailure = 1;  // bad data, a missing file, something unsupported
inline constexpr int kExitUsage = 2;    // the command line itself is wrong

struct Failure {
  int exit_code = kExitFailure;
  std::string message;
};

template <class T>
using Outcome = tl::expected<T, Failure>;

inline tl::unexpected<Failure> usage_error(std::string message) {
  return tl::unexpected(Failure{kExitUsage, std::move(message)});
}
inline tl::unexpected<Failure> failure(std::string message) {
  return tl::unexpected(Failure{kExitFailure, std::move(message)});
}
inline tl::unexpected<Failure> failure(const Error& error) { return failure(error.message); }

}  // namespace isologit::detail::cli
