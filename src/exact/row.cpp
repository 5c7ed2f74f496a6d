#include "exact/row.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "exact/element.hpp"
#include "exact/encode.hpp"

namespace isologit::detail::exact {
namespace {

constexpr std::int64_t kPiece = 128;

// f16_to_f32 without branches: the bits of exponent and fraction as those of an f32 are 2^-112 of the value, subnormal
// ones too, and the product is exact.
float widen_f16(std::uint16_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7FFFU) << 13;
  const auto scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude >= 0x0F800000U ? 0x7F800000U : 0U;  // inf and NaN
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x8000U) << 16 | scaled | special);
}

}  // namespace

void widen_row(const void* from, DType dtype, std::int64_t count, float* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  // Loops that compilers make vector instructions of.
  std::uint16_t bits[kPiece];
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t length = std::min(kPiece, count - begin);
    std::memcpy(bits, static_cast<const char*>(from) + 2 * begin, static_cast<std::size_t>(length) * sizeof *bits);
    if (dtype == DType::bf16) {
      for (std::int64_t j = 0; j < length; ++j) to[begin + j] = bf16_to_f32(bits[j]);
    } else {
      for (std::int64_t j = 0; j < length; ++j) to[begin + j] = widen_f16(bits[j]);
    }
  }
}

void narrow_row(const float* from, DType dtype, std::int64_t count, void* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  std::uint16_t bits[kPiece];
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t length = std::min(kPiece, count - begin);
    if (dtype == DType::bf16) {
      for (std::int64_t j = 0; j < length; ++j) bits[j] = bf16_bits(from[begin + j]);
    } else {
      for (std::int64_t j = 0; j < length; ++j) bits[j] = f16_bits(from[begin + j]);
    }
    std::memcpy(static_cast<char*>(to) + 2 * begin, bits, static_cast<std::size_t>(length) * sizeof *bits);
  }
}

}  // namespace isologit::detail::exact
