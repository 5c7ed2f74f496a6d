#include "given/row.hpp"

#include <bit>
#include <cstring>

namespace isologit::detail::given {
namespace {

constexpr std::int64_t kPiece = 128;

// exact::f16_to_f32 without branches: the bits of exponent and fraction as those of an f32 are 2^-112 of the value,
// subnormal ones too, and the product is exact.
float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7FFFU) << 13;
  const auto scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude >= 0x0F800000U ? 0x7F800000U : 0U;  // inf and NaN
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x8000U) << 16 | scaled | special);
}

}  // namespace

void copy_row(const MatrixView& logits, std::int64_t row, std::int64_t first, std::int64_t count, float* to) {
  const char* from = static_cast<const char*>(exact::row_data(logits, row)) +
                     first * static_cast<std::int64_t>(dtype_size(logits.dtype));
  if (logits.dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  // Loops that compilers make vector instructions of.
  std::uint16_t bits[kPiece];
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t length = std::min(kPiece, count - begin);
    std::memcpy(bits, from + 2 * begin, static_cast<std::size_t>(length) * sizeof(std::uint16_t));
    if (logits.dtype == DType::bf16) {
      for (std::int64_t j = 0; j < length; ++j) to[begin + j] = exact::bf16_to_f32(bits[j]);
    } else {
      for (std::int64_t j = 0; j < length; ++j) to[begin + j] = f16_to_f32(bits[j]);
    }
  }
}

}  // namespace isologit::detail::given
