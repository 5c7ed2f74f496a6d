// The vectors of the AVX-512 kernels (kernels/panel.hpp), for the files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "isologit/dtype.hpp"

namespace isologit::detail::kernels {
namespace {

template <DType kDType>
__m512 load_floats(const char* from) {
  if constexpr (kDType == DType::f32) return _mm512_loadu_ps(from);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if constexpr (kDType == DType::f16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Lane by lane the sums of a pair's neighbours, as _mm256_hadd_pd, which AVX-512 does not have.
inline __m512d add_pairs(__m512d a, __m512d b) {
  return _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
}

// Quarter j of q[i] becomes quarter i of q[j].
inline void transpose_quarters(__m512d (&q)[4]) {
  const __m512d even_01 = _mm512_shuffle_f64x2(q[0], q[1], 0x88);
  const __m512d even_23 = _mm512_shuffle_f64x2(q[2], q[3], 0x88);
  const __m512d odd_01 = _mm512_shuffle_f64x2(q[0], q[1], 0xDD);
  const __m512d odd_23 = _mm512_shuffle_f64x2(q[2], q[3], 0xDD);
  q[0] = _mm512_shuffle_f64x2(even_01, even_23, 0x88);
  q[1] = _mm512_shuffle_f64x2(odd_01, odd_23, 0x88);
  q[2] = _mm512_shuffle_f64x2(even_01, even_23, 0xDD);
  q[3] = _mm512_shuffle_f64x2(odd_01, odd_23, 0xDD);
}

// v[i][j] becomes v[j][i].
inline void transpose(__m512d (&v)[8]) {
  __m512d even[4];
  __m512d odd[4];
  for (int i = 0; i < 4; ++i) {
    even[i] = _mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]);
    odd[i] = _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]);
  }
  transpose_quarters(even);
  transpose_quarters(odd);
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = even[i];
    v[2 * i + 1] = odd[i];
  }
}

inline void transpose(__m512 (&v)[16]) {
  __m512d columns[4][4];  // [column of a quarter][four rows]
  for (int i = 0; i < 4; ++i) {
    const __m512* rows = v + 4 * i;
    const __m512d low_01 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[0], rows[1]));
    const __m512d low_23 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2], rows[3]));
    const __m512d high_01 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[0], rows[1]));
    const __m512d high_23 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2], rows[3]));
    columns[0][i] = _mm512_unpacklo_pd(low_01, low_23);
    columns[1][i] = _mm512_unpackhi_pd(low_01, low_23);
    columns[2][i] = _mm512_unpacklo_pd(high_01, high_23);
    columns[3][i] = _mm512_unpackhi_pd(high_01, high_23);
  }
  for (int c = 0; c < 4; ++c) {
    transpose_quarters(columns[c]);
    for (int i = 0; i < 4; ++i) v[4 * i + c] = _mm512_castpd_ps(columns[c][i]);
  }
}

inline void transpose(__m512i (&v)[16]) {
  __m512 floats[16];
  for (int i = 0; i < 16; ++i) floats[i] = _mm512_castsi512_ps(v[i]);
  transpose(floats);  // moves alone: no bit changes
  for (int i = 0; i < 16; ++i) v[i] = _mm512_castps_si512(floats[i]);
}

struct Doubles {
  using Element = double;
  using V = __m512d;
  static constexpr std::int64_t kWidth = 8;
  static constexpr std::int64_t kGroup = 16;
  static constexpr std::size_t kHiddenRows = 6;
  static constexpr std::int64_t kFewRows = 9;
  static constexpr std::int64_t kRowsInTurn = 2;
  static constexpr std::size_t kWeightRows = 2;
  static V zero() { return _mm512_setzero_pd(); }
  static V load(const double* from) { return _mm512_loadu_pd(from); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static void add_sums(double* to, const V (&v)[4]) {
    const __m256d low = add_halves(add_pairs(v[0], v[1]));  // [v0 even, v1 even, v0 odd, v1 odd]
    const __m256d high = add_halves(add_pairs(v[2], v[3]));
    const __m256d sums =
        _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31));
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), sums));
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[2]) {
    const __m512 floats = load_floats<kDType>(from);
    to[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(floats));
    to[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(floats, 1));
  }

 private:
  static __m256d add_halves(V v) { return _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)); }
};

struct Floats {
  using Element = float;
  using V = __m512;
  static constexpr std::int64_t kWidth = 16;
  static constexpr std::int64_t kGroup = 16;
  static constexpr std::size_t kHiddenRows = 6;
  static constexpr std::int64_t kFewRows = 12;
  static constexpr std::int64_t kRowsInTurn = 6;
  static constexpr std::size_t kWeightRows = 4;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const float* from) { return _mm512_loadu_ps(from); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static void add_sums(float* to, const V (&v)[4]) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(add_halves(v[0]), add_halves(v[1])),
                                       _mm256_hadd_ps(add_halves(v[2]), add_halves(v[3])));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), four));
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[1]) {
    to[0] = load_floats<kDType>(from);
  }

 private:
  static __m256 add_halves(V v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
};

}  // namespace
}  // namespace isologit::detail::kernels
