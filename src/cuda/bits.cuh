// What a function needs to be compiled for a GPU by nvcc and, from the same source, for the host by any C++ compiler.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define ISOLOGIT_DEVICE __device__ __forceinline__
#define ISOLOGIT_UNROLL _Pragma("unroll")
#define ISOLOGIT_ROLLED _Pragma("unroll 1")
#else
#include <cmath>
#define ISOLOGIT_DEVICE inline
#define ISOLOGIT_UNROLL
#define ISOLOGIT_ROLLED
#endif

#ifdef __FAST_MATH__
#error "isologit's results are defined operation by operation; build without fast math"
#endif

namespace isologit::detail::cuda {

template <class To, class From>
ISOLOGIT_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

ISOLOGIT_DEVICE double from_words(std::uint32_t high, std::uint32_t low) {
#ifdef __CUDACC__
  return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
#else
  return bit_cast<double>(std::uint64_t{high} << 32 | low);
#endif
}

ISOLOGIT_DEVICE double fused(double a, double b, double c) {
#ifdef __CUDACC__
  return __fma_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

ISOLOGIT_DEVICE float fused(float a, float b, float c) {
#ifdef __CUDACC__
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

// Byte i of the result is that of a (0 to 3) or b (4 to 7) which digit i of `which`, from below, says.
ISOLOGIT_DEVICE std::uint32_t bytes_of(std::uint32_t a, std::uint32_t b, std::uint32_t which) {
#ifdef __CUDACC__
  return __byte_perm(a, b, which);
#else
  const std::uint64_t both = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<std::uint32_t>(both >> 8 * (which >> 4 * i & 7U) & 0xFFU) << 8 * i;
  }
  return result;
#endif
}

// The sum of four bytes without a sign, and c.
ISOLOGIT_DEVICE std::uint32_t sum_of_bytes(std::uint32_t four, std::uint32_t c) {
#ifdef __CUDACC__
  return __dp4a(four, 0x01010101U, c);
#else
  return c + (four & 0xFFU) + (four >> 8 & 0xFFU) + (four >> 16 & 0xFFU) + (four >> 24);
#endif
}

// Of two numbers of 16 bits each, without a sign, in both halves: the greater; the lesser of a + b and c.
ISOLOGIT_DEVICE std::uint32_t most_of_halves(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDACC__
  return __vmaxu2(a, b);
#else
  const std::uint32_t low = (a & 0xFFFFU) > (b & 0xFFFFU) ? a : b;
  return ((a >> 16 > b >> 16 ? a : b) & 0xFFFF0000U) | (low & 0xFFFFU);
#endif
}
ISOLOGIT_DEVICE std::uint32_t least_of_halves_plus(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#ifdef __CUDACC__
  return __viaddmin_u16x2(a, b, c);
#else
  const std::uint32_t low = (a + b) & 0xFFFFU;
  const std::uint32_t high = ((a >> 16) + (b >> 16)) & 0xFFFFU;
  return (high < c >> 16 ? high << 16 : c & 0xFFFF0000U) | (low < (c & 0xFFFFU) ? low : c & 0xFFFFU);
#endif
}

// 2^exponent, for exponents of normal doubles.
ISOLOGIT_DEVICE double power_of_two(int exponent) {
  return from_words(static_cast<std::uint32_t>(exponent + 1023) << 20, 0);
}

// Exponent of the lowest set bit of x; `kNoBit` of zero, far above any other, so that a least over many is right.
inline constexpr int kNoBit = 400;
ISOLOGIT_DEVICE int lowest_bit(double x) {
  const auto bits = bit_cast<std::uint64_t>(x) & 0x7FFFFFFFFFFFFFFFU;
  if (bits == 0) return kNoBit;
  const int field = static_cast<int>(bits >> 52);
  std::uint64_t significand = bits & 0xFFFFFFFFFFFFFU;
  if (field != 0) significand |= std::uint64_t{1} << 52;
#ifdef __CUDACC__
  const int zeros = __ffsll(static_cast<long long>(significand)) - 1;
#else
  const int zeros = __builtin_ctzll(significand);
#endif
  return (field != 0 ? field : 1) - 1075 + zeros;
}

// Of x not 0.
ISOLOGIT_DEVICE int highest_bit(std::uint32_t x) {
#ifdef __CUDACC__
  return 31 - __clz(static_cast<int>(x));
#else
  return 31 - __builtin_clz(x);
#endif
}

ISOLOGIT_DEVICE float minus_infinity() { return bit_cast<float>(std::uint32_t{0xFF800000}); }

// The one NaN that results may hold, and the NaN that marks a result as not settled yet: its bits suffice to tell it
// in bf16 and f16 too (result.cuh).
ISOLOGIT_DEVICE float quiet_nan() { return bit_cast<float>(std::uint32_t{0x7FC00000}); }
ISOLOGIT_DEVICE float open_mark() { return bit_cast<float>(std::uint32_t{0x7FD20000}); }
ISOLOGIT_DEVICE bool is_open(float x) { return bit_cast<std::uint32_t>(x) == 0x7FD20000U; }

}  // namespace isologit::detail::cuda
