// The structures of the C interface that begin with their size: each side may know fewer members than the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/text.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::capi {

// A copy of the caller's structure as this version knows it. What the caller does not know is 0; what this version
// does not know must be 0. Smallest is the size that the structure had in the first version.
template <class Struct, std::size_t Smallest = sizeof(Struct)>
Result<Struct> read(const Struct* from, const char* name) {
  if (from == nullptr) return fail(StatusCode::invalid_argument, base::concat(name, ": NULL"));
  std::size_t size = 0;
  std::memcpy(&size, from, sizeof size);
  constexpr std::size_t kLargest = 1 << 16;  // more is no size, and is not looked at
  if (size < Smallest || size > kLargest) {
    return fail(StatusCode::invalid_argument,
                base::concat(name, ": struct_size is ", size, "; expected sizeof the structure, at least ", Smallest));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  if (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size, [](auto b) { return b != 0; })) {
    return fail(StatusCode::unsupported, base::concat(name, ": struct_size is ", size, ", and a member past the ",
                                                      sizeof(Struct), " bytes that this version knows is not 0"));
  }
  Struct result{};
  std::memcpy(static_cast<void*>(&result), from, std::min(size, sizeof(Struct)));
  return result;
}

// Whether a structure that is to be filled has room for what the first version had.
template <class Struct, std::size_t Smallest = sizeof(Struct)>
bool writable(const Struct* to) {
  if (to == nullptr) return false;
  std::size_t size = 0;
  std::memcpy(&size, to, sizeof size);
  return size >= Smallest;
}

// Fills what the caller's structure has room for; its struct_size stays. `to` must be writable().
template <class Struct>
void write(const Struct& from, Struct* to) {
  std::size_t size = 0;
  std::memcpy(&size, to, sizeof size);
  constexpr std::size_t kHead = sizeof size;
  std::memcpy(reinterpret_cast<unsigned char*>(to) + kHead, reinterpret_cast<const unsigned char*>(&from) + kHead,
              std::min(size, sizeof(Struct)) - kHead);
}

}  // namespace isologit::detail::capi
