// The greatest magnitude of a row, found in the bits: among numbers of one sign, a greater pattern is a greater number.
#pragma once

#include <cstdint>
#include <cstring>

#include "exact/element.hpp"

namespace isologit::dot {
namespace {

// A plain loop that the compiler vectorises for the including file's instruction set.
template <class Bits>
Bits greatest_bits(const void* row, std::int64_t count, Bits mask) {
  const char* from = static_cast<const char*>(row);
  Bits greatest = 0;
  for (std::int64_t i = 0; i < count; ++i, from += sizeof(Bits)) {
    Bits bits = 0;
    std::memcpy(&bits, from, sizeof bits);
    const auto magnitude = static_cast<Bits>(bits & mask);
    greatest = magnitude > greatest ? magnitude : greatest;
  }
  return greatest;
}

// Infinite or NaN when an element is.
inline double greatest_magnitude(const void* row, DType dtype, std::int64_t count) {
  const auto value = [dtype](auto bits) { return static_cast<double>(exact::load_element(&bits, dtype, 0)); };
  if (dtype == DType::f32) return value(greatest_bits<std::uint32_t>(row, count, 0x7FFFFFFF));
  return value(greatest_bits<std::uint16_t>(row, count, 0x7FFF));
}

}  // namespace
}  // namespace isologit::dot
