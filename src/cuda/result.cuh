// Results: real numbers rounded once to f32, bf16 or f16. Those of the narrower types are f32 numbers until they are
// stored.
#pragma once

#include "cuda/element.cuh"

namespace isologit::detail::cuda {

// What a call is told at its end: results that were left open, and what was given but is out of range: ids that are
// neither of the vocabulary nor ignored, positions and frequencies.
struct Status {
  std::uint32_t open, wrong;
};

ISOLOGIT_DEVICE float nearest(double x) {
#ifdef __CUDACC__
  return __double2float_rn(x);
#else
  return static_cast<float>(x);
#endif
}

// x rounded to odd in f32: on which side of every number of a narrower type, and of every midpoint, it lies is kept.
ISOLOGIT_DEVICE float to_odd(double x) {
  const float near = nearest(x);
  const auto kept = static_cast<double>(near);
  auto bits = bit_cast<std::uint32_t>(near);
  if (kept != x && (bits & 1U) == 0) bits += fabs(kept) > fabs(x) ? ~std::uint32_t{0} : std::uint32_t{1};
  return bit_cast<float>(bits);
}

// An f32 without its last `dropped` bits, to nearest, ties to even. Not of NaN.
ISOLOGIT_DEVICE float without_bits(float x, int dropped) {
  const auto bits = bit_cast<std::uint32_t>(x);
  const std::uint32_t half = (std::uint32_t{1} << (dropped - 1)) - 1;
  const std::uint32_t up = half + ((bits >> dropped) & 1U);
  return bit_cast<float>((bits + up) & ~((std::uint32_t{1} << dropped) - 1));
}

// A zero is +0, NaN the one of results.
ISOLOGIT_DEVICE float round_once(double x, int type = kF32) {
  if (type == kF32) return nearest(x) + 0.0F;
  if (x != x) return quiet_nan();
  const float from = to_odd(x);
  if (type == kBf16) return without_bits(from, 16) + 0.0F;
  const float size = fabsf(from);
  if (size < 0x1p-14F) {  // subnormal: a multiple of 2^-24, the last place of 0.5
    const float rounded = (size + 0.5F) - 0.5F;
    return (from < 0 ? -rounded : rounded) + 0.0F;
  }
  if (size >= 65520.0F) return bit_cast<float>(from < 0 ? std::uint32_t{0xFF800000} : std::uint32_t{0x7F800000});
  return without_bits(from, 13);
}

// The bits of a number of a narrower type, of an infinity, or of one of the NaNs of bits.cuh.
ISOLOGIT_DEVICE std::uint16_t narrow_bits(float x, int type) {
  const auto bits = bit_cast<std::uint32_t>(x);
  if (type == kBf16) return static_cast<std::uint16_t>(bits >> 16);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t size = bits & 0x7FFFFFFFU;
  if (size >= 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7C00U | (size >> 13 & 0x3FFU));
  if (size >= 0x38800000U) return static_cast<std::uint16_t>(sign | (size - 0x38000000U) >> 13);
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(bit_cast<float>(size) * 0x1p24F));
}

ISOLOGIT_DEVICE void store_result(void* to, int type, std::int64_t index, float x) {
  if (type == kF32) {
    static_cast<float*>(to)[index] = x;
  } else {
    static_cast<std::uint16_t*>(to)[index] = narrow_bits(x, type);
  }
}
ISOLOGIT_DEVICE bool is_open_result(const void* from, int type, std::int64_t index) {
  if (type == kF32) return is_open(static_cast<const float*>(from)[index]);
  return static_cast<const std::uint16_t*>(from)[index] == narrow_bits(open_mark(), type);
}

}  // namespace isologit::detail::cuda
