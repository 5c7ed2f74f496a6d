// Elements and their exact values. Every bf16, f16 and f32 value is a double, so double is the common currency of
// the tests; the encoders, which round, exist only to make test data.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "isologit/dtype.hpp"

namespace isologit::oracle {

inline std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// The one NaN that results may hold (CONTRACT.md 0).
inline float quiet_nan() { return float_of(0x7FC00000U); }

inline double decode_bf16(std::uint16_t bits) {
  return static_cast<double>(float_of(static_cast<std::uint32_t>(bits) << 16));
}

inline double decode_f16(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  double magnitude;
  if (exponent == 0x1F) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(fraction, -24);
  } else {
    magnitude = std::ldexp(1024 + fraction, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// f32 to bf16, to nearest, ties to even.
inline std::uint16_t encode_bf16(float x) {
  const std::uint32_t bits = bits_of(x);
  if (std::isnan(x)) return 0x7FC0;
  const std::uint32_t odd = (bits >> 16) & 1U;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + odd) >> 16);
}

// f32 to f16, to nearest, ties to even.
inline std::uint16_t encode_f16(float x) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  if (std::isnan(x)) return 0x7E00;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= 65520.0) return static_cast<std::uint16_t>(sign | 0x7C00);  // half an ulp past 65504
  // Count in units of the last place; nearbyint rounds ties to even in the default rounding mode. A carry out of the
  // fraction lands in the exponent field, as it should.
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<std::uint16_t>(sign + ((exponent + 14) << 10) + units);
}

// The value of element i of an array of the given type; data need not be aligned.
inline double decode(DType dtype, const void* data, std::size_t i) {
  const auto* bytes = static_cast<const unsigned char*>(data) + i * dtype_size(dtype);
  if (dtype == DType::f32) {
    float x;
    std::memcpy(&x, bytes, sizeof x);
    return static_cast<double>(x);
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return dtype == DType::bf16 ? decode_bf16(bits) : decode_f16(bits);
}

// Writes x, rounded to the type, as element i.
inline void encode(DType dtype, void* data, std::size_t i, float x) {
  auto* bytes = static_cast<unsigned char*>(data) + i * dtype_size(dtype);
  if (dtype == DType::f32) {
    std::memcpy(bytes, &x, sizeof x);
    return;
  }
  const std::uint16_t bits = dtype == DType::bf16 ? encode_bf16(x) : encode_f16(x);
  std::memcpy(bytes, &bits, sizeof bits);
}

inline std::vector<double> decode_all(DType dtype, const void* data, std::size_t count) {
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = decode(dtype, data, i);
  return values;
}

}  // namespace isologit::oracle
