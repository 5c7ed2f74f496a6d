// Doubles rounded once to bf16, f16 or f32, and stored as elements of it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact/rounding.hpp"
#include "isologit/dtype.hpp"

namespace isologit::detail::exact {

constexpr const Format& format_of(DType dtype) {
  return dtype == DType::f32 ? kF32 : dtype == DType::bf16 ? kBf16 : kF16;
}

// x rounded once to `dtype`, ties to even; zero is +0 and NaN the quiet one. Exact as a double.
inline double narrow(double x, DType dtype) {
  if (std::isnan(x)) return static_cast<double>(quiet_nan());
  const float near = static_cast<float>(x);
  if (dtype == DType::f32 || std::isinf(near)) return static_cast<double>(near) + 0.0;
  if (x == 0) return 0.0;
  if (dtype == DType::bf16) {
    // Rounded to odd first, so that the second rounding sees what the first dropped.
    auto bits = std::bit_cast<std::uint32_t>(near);
    const double excess = std::fabs(static_cast<double>(near)) - std::fabs(x);
    if (excess != 0 && (bits & 1U) == 0) bits += excess > 0 ? 0xFFFFFFFFU : 1U;
    bits += 0x7FFFU + ((bits >> 16) & 1U);
    return static_cast<double>(std::bit_cast<float>(bits & 0xFFFF0000U)) + 0.0;
  }
  const Format& format = format_of(dtype);
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(x), &exponent);
  const auto leading = static_cast<std::uint64_t>(std::ldexp(fraction, 64));
  return round_to(format, x < 0, {leading, exponent - 1, false});
}

// The bits of x, a bf16 number.
inline std::uint16_t bf16_bits(float x) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16); }

// The bits of x, an f16 number.
inline std::uint16_t f16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t size = bits & 0x7FFFFFFFU;
  if (size > 0x7F800000U) return 0x7E00U;
  if (size == 0x7F800000U) return sign | 0x7C00U;
  // Below 2^-14 in units of 2^-24; above by its own exponent field.
  if (size < 0x38800000U) return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::fabs(x) * 0x1p24F));
  return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>((size - 0x38000000U) >> 13));
}

// Stores `value`, one of the type's, as the element at `at`, which need not be aligned.
inline void store_element(void* at, DType dtype, double value) {
  const float f32 = static_cast<float>(value);
  if (dtype == DType::f32) {
    std::memcpy(at, &f32, sizeof f32);
    return;
  }
  const std::uint16_t bits = dtype == DType::bf16 ? bf16_bits(f32) : f16_bits(f32);
  std::memcpy(at, &bits, sizeof bits);
}

}  // namespace isologit::detail::exact
