// Stands before the compiler's own header: AVX-512 intrinsics as plain C (SIMDe), so that the kernels written in them
// can be tested on processors without it.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

// What SIMDe 0.7.4 lacks.
#include <string.h>

static inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  uint16_t from[16];
  uint32_t to[16];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}

static inline __m512 _mm512_cvtph_ps(__m256i a) {
  uint16_t from[16];
  float to[16];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = simde_float16_to_float32(simde_uint16_as_float16(from[i]));
  return _mm512_loadu_ps(to);
}

static inline __m512d _mm512_cvtps_pd(__m256 a) {
  float from[8];
  double to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = from[i];
  return _mm512_loadu_pd(to);
}

static inline __m256 _mm512_extractf32x8_ps(__m512 a, int half) {
  float from[16];
  memcpy(from, &a, sizeof from);
  return _mm256_loadu_ps(from + 8 * half);
}
