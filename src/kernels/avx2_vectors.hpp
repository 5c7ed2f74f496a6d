// The vectors of the AVX2 kernels (kernels/panel.hpp), for the file compiled for AVX2.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "isologit/dtype.hpp"

namespace isologit::detail::kernels {
namespace {

template <DType kDType>
__m256 load_floats(const char* from) {
  if constexpr (kDType == DType::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  if constexpr (kDType == DType::f16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Elements of a weight widen to 2^-896 times themselves: the bits of a bf16, three places further right in a double,
// are that number, subnormal or not, without a conversion. Neither that (whose last bit is 2^-1045 or more) nor 2^896
// times a hidden element (below 2^1024) is rounded. Register p of a group of 16 holds elements p, p + 4, p + 8 and p +
// 12, so that a shift of 64-bit lanes brings them into place.
struct Doubles {
  using Element = double;
  using V = __m256d;
  static constexpr std::int64_t kWidth = 4;
  static constexpr std::int64_t kGroup = 16;
  static constexpr double kUnscale = 0x1p896;
  static constexpr std::size_t kHiddenRows = 3;
  static constexpr std::int64_t kFewRows = 12;
  static constexpr std::size_t kWeightRows = 2;
  static V zero() { return _mm256_setzero_pd(); }
  static V load(const double* from) { return _mm256_loadu_pd(from); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static void add_sums(double* to, const V (&v)[4]) {
    const V low = _mm256_hadd_pd(v[0], v[1]);
    const V high = _mm256_hadd_pd(v[2], v[3]);
    const V sums = _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x21), _mm256_blend_pd(low, high, 0b1100));
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), sums));
  }
  // Of a bf16 in the upper bits of each lane.
  static V from_bf16(__m256i lanes) {
    const __m256i sign_and_rest = _mm256_set1_epi64x(static_cast<std::int64_t>(0x8FFFE00000000000));
    return _mm256_castsi256_pd(_mm256_and_si256(_mm256_srai_epi32(lanes, 3), sign_and_rest));
  }
  template <DType kDType>
  static V widened(const char* from, std::size_t p) {
    if constexpr (kDType == DType::bf16) {
      const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      return from_bf16(_mm256_slli_epi64(lanes, static_cast<int>(48 - 16 * p)));
    } else {
      const __m256 first = load_floats<kDType>(from);
      const __m256 second = load_floats<kDType>(from + 8 * dtype_size(kDType));
      const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      const __m256 both = p < 2 ? _mm256_unpacklo_ps(first, second) : _mm256_unpackhi_ps(first, second);
      const __m256 parts = _mm256_permutevar8x32_ps(both, order);
      const __m128 floats = p % 2 == 0 ? _mm256_castps256_ps128(parts) : _mm256_extractf128_ps(parts, 1);
      return _mm256_mul_pd(_mm256_cvtps_pd(floats), _mm256_set1_pd(1 / kUnscale));
    }
  }
  template <DType kDType>
  requires(kDType != DType::f32)  // of which all at once take fewer instructions
      static V part(const char* from, std::size_t p) {
    return widened<kDType>(from, p);
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[4]) {
    to[0] = widened<kDType>(from, 0);
    to[1] = widened<kDType>(from, 1);
    to[2] = widened<kDType>(from, 2);
    to[3] = widened<kDType>(from, 3);
  }
};

struct Floats {
  using Element = float;
  using V = __m256;
  static constexpr std::int64_t kWidth = 8;
  static constexpr std::int64_t kGroup = 8;
  static constexpr std::size_t kHiddenRows = 3;
  static constexpr std::int64_t kFewRows = 12;
  static constexpr std::int64_t kRowsInTurn = 6;
  static constexpr std::size_t kWeightRows = 4;
  static V zero() { return _mm256_setzero_ps(); }
  static V load(const float* from) { return _mm256_loadu_ps(from); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static void add_sums(float* to, const V (&v)[4]) {
    const V sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), four));
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[1]) {
    to[0] = load_floats<kDType>(from);
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
