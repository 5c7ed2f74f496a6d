// Elements to doubles, as plain loops that the compiler vectorises for the including file's instruction set.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "isologit/dtype.hpp"

namespace isologit::dot {
namespace {

template <class T>
inline T load_unaligned(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline void widen(const char* from, DType dtype, std::int64_t count, double* to) {
  switch (dtype) {
    case DType::bf16:
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint32_t bits = load_unaligned<std::uint16_t>(from + 2 * i);
        to[i] = static_cast<double>(std::bit_cast<float>(bits << 16));
      }
      break;
    case DType::f16:
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint32_t bits = load_unaligned<std::uint16_t>(from + 2 * i);
        const std::uint32_t magnitude = (bits & 0x7FFFU) << 13;
        // The f16 fields read as an f32 are the value times 2^-112, subnormals included; infinities and NaN need the
        // full f32 exponent instead.
        const float finite = std::bit_cast<float>(magnitude) * 0x1p112F;
        const bool special = (bits & 0x7C00U) == 0x7C00U;
        const std::uint32_t value = special ? magnitude | 0x7F800000U : std::bit_cast<std::uint32_t>(finite);
        to[i] = static_cast<double>(std::bit_cast<float>(value | (bits & 0x8000U) << 16));
      }
      break;
    case DType::f32:
      for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(load_unaligned<float>(from + 4 * i));
      break;
  }
}

}  // namespace
}  // namespace isologit::dot
