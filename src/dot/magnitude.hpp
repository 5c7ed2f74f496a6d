// The greatest magnitude and the lowest set bit of a row, found in the bits: among numbers of one sign, a greater
// pattern is a greater number.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

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

template <DType kDType>
std::uint32_t lowest_bits(const char* from, std::int64_t count) {
  std::uint32_t least = 0xFFFFFFFF;
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = exact::load_element(from, kDType, i);
    const auto bits = std::bit_cast<std::uint32_t>(x);
    // Clearing the lowest set bit of the significand leaves a number below; the difference is exact.
    const std::uint32_t cleared = (bits & 0x7FFFFF) != 0 ? bits & (bits - 1) : 0;
    const std::uint32_t bit = std::bit_cast<std::uint32_t>(x - std::bit_cast<float>(cleared)) & 0x7FFFFFFF;
    least = std::min(least, bit - 1);  // that of 0 is the greatest
  }
  return least;
}

// The least of the lowest set bits of a row of finite elements, +inf when all are 0.
inline double lowest_bit(const void* row, DType dtype, std::int64_t count) {
  const auto* from = static_cast<const char*>(row);
  std::uint32_t least = 0;
  switch (dtype) {
    case DType::bf16: least = lowest_bits<DType::bf16>(from, count); break;
    case DType::f16: least = lowest_bits<DType::f16>(from, count); break;
    case DType::f32: least = lowest_bits<DType::f32>(from, count); break;
  }
  if (least == 0xFFFFFFFF) return std::numeric_limits<double>::infinity();
  return static_cast<double>(std::bit_cast<float>(least + 1));
}

}  // namespace
}  // namespace isologit::dot
