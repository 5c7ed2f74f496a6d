// Keeps exceptions inside a module: the standard library reports exhausted memory by throwing.
#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// Runs body, which returns a Result; running out of memory becomes StatusCode::out_of_memory.
template <class Body>
auto guarded(const char* doing, Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return fail(StatusCode::out_of_memory, std::string("out of memory while ") + doing);
  } catch (const std::length_error&) {
    return fail(StatusCode::out_of_memory, std::string("out of memory while ") + doing);
  }
}

}  // namespace isologit::detail::io
