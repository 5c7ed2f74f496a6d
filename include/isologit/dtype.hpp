// The element types of hidden states, weights and biases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace isologit {

// bf16: bfloat16 (1 sign, 8 exponent, 7 fraction bits). f16, f32: IEEE 754-2019 binary16, binary32.
// Every element stands for its exact real value, subnormal ones included.
enum class DType : std::uint8_t { bf16 = 0, f16 = 1, f32 = 2 };

// Bytes of one element.
constexpr std::size_t dtype_size(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// "bf16", "f16" or "f32".
constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::f32: return "f32";
  }
  return "unknown";
}

// The inverse of dtype_name; nothing when the name is none of them.
constexpr std::optional<DType> parse_dtype(std::string_view name) {
  for (DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace isologit
