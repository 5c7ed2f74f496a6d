// Reading the GGUF format, versions 2 and 3, little-endian: counts, metadata, what is known of each tensor, then the
// tensors' bytes at multiples of an alignment. The data is never copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/safetensors.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

// An array of the metadata: how many elements it has. They are checked, and not kept.
struct GgufArray {
  std::uint64_t length = 0;
};
using GgufValue = std::variant<std::uint64_t, std::int64_t, float, double, bool, std::string, GgufArray>;

struct GgufContents {
  std::vector<Tensor> tensors;  // in the order of their data; dtype is the type's name ("F16", "Q6_K"), and a shape
                                // has the outermost dimension first, as that of safetensors
  std::map<std::string, GgufValue, std::less<>> metadata;

  const Tensor* find(std::string_view name) const;

  // The value of a key if it is there and of this type.
  template <class T>
  const T* value(std::string_view key) const {
    const auto found = metadata.find(key);
    return found == metadata.end() ? nullptr : std::get_if<T>(&found->second);
  }
};

// Checks all of it but the data. A type that is not known is accepted, as its size cannot be checked. source names the
// file in messages.
Result<GgufContents> parse_gguf(std::span<const std::byte> file, const std::string& source);

// What a value of the metadata is, in words.
std::string describe(const GgufValue& value);

}  // namespace isologit::detail::io
