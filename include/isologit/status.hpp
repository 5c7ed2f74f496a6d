// How calls fail: a code for programs and a message for people that names the argument, the value found and what
// was expected. The library never throws across its API, never aborts and never prints.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace isologit {

enum class StatusCode {
  ok = 0,
  invalid_argument = 1,  // a shape, dtype, id or parameter outside its documented range
  unsupported = 2,       // a valid request that this build or this machine cannot serve (a kernel name, an f8 head)
  not_found = 3,         // a file, tensor or configuration key that is not there
  io_error = 4,          // the system refused to read, map or write
  out_of_memory = 5,
  cancelled = 6,  // the progress callback asked to stop
};

struct Error {
  StatusCode code = StatusCode::invalid_argument;
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(StatusCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

}  // namespace isologit
