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

// The one NaN that results may hold, and the NaN that marks a result as not settled yet: its bits suffice to tell it
// in bf16 and f16 too (result.cuh).
ISOLOGIT_DEVICE float quiet_nan() { return bit_cast<float>(std::uint32_t{0x7FC00000}); }
ISOLOGIT_DEVICE float open_mark() { return bit_cast<float>(std::uint32_t{0x7FD20000}); }
ISOLOGIT_DEVICE bool is_open(float x) { return bit_cast<std::uint32_t>(x) == 0x7FD20000U; }

}  // namespace isologit::detail::cuda
