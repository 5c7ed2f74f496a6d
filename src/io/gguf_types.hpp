// The element types of the GGUF format.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace isologit::detail::io {

// A type stores `elements` adjacent elements of a row in `bytes` bytes.
struct GgufType {
  std::uint32_t number;
  std::string_view name;
  std::uint32_t elements;
  std::uint32_t bytes;
};

// Nothing when the number is not known.
std::optional<GgufType> gguf_type(std::uint32_t number);

}  // namespace isologit::detail::io
