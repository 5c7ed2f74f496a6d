// Stands before the compiler's own header: AVX-512 intrinsics as plain C (SIMDe) and those of AMX, so that the kernels
// written in them can be tested on processors without.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <string.h>

// What SIMDe 0.7.4 lacks.
typedef simde__mmask16 __mmask16;

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

static inline __m256 _mm512_cvtpd_ps(__m512d a) {
  double from[8];
  float to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = (float)from[i];
  return _mm256_loadu_ps(to);
}

static inline __m256 _mm512_extractf32x8_ps(__m512 a, int half) {
  float from[16];
  memcpy(from, &a, sizeof from);
  return _mm256_loadu_ps(from + 8 * half);
}

static inline __m512d _mm512_cvtepi64_pd(__m512i a) {
  int64_t from[8];
  double to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = (double)from[i];
  return _mm512_loadu_pd(to);
}

static inline __m512d _mm512_cvtepi32_pd(__m256i a) {
  int32_t from[8];
  double to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = from[i];
  return _mm512_loadu_pd(to);
}

static inline __m512i _mm512_srai_epi32(__m512i a, unsigned count) {
  int32_t lanes[16];
  memcpy(lanes, &a, sizeof lanes);
  for (int i = 0; i < 16; ++i) lanes[i] >>= count > 31 ? 31 : count;
  return _mm512_loadu_si512(lanes);
}

static inline __m512i _mm512_cvtepu32_epi64(__m256i a) {
  uint32_t from[8];
  int64_t to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}

static inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  uint32_t from[16];
  uint16_t to[16];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = (uint16_t)from[i];
  return _mm256_loadu_si256((const __m256i*)to);
}

// Its name is there as one with a mask.
#undef _mm512_madd_epi16
static inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) { return simde_mm512_madd_epi16(a, b); }

static inline __m512i _mm512_cvtepi32_epi64(__m256i a) {
  int32_t from[8];
  int64_t to[8];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 8; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}

static inline __m512d _mm512_shuffle_f64x2(__m512d a, __m512d b, int lanes) {
  double from[2][8];
  double to[8];
  memcpy(from[0], &a, sizeof from[0]);
  memcpy(from[1], &b, sizeof from[1]);
  for (int i = 0; i < 8; ++i) to[i] = from[i / 4][2 * (lanes >> i / 2 * 2 & 3) + i % 2];
  return _mm512_loadu_pd(to);
}

static inline __m512i _mm512_cvttps_epi32(__m512 a) {
  float from[16];
  int32_t to[16];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = from[i] >= -0x1p31F && from[i] < 0x1p31F ? (int32_t)from[i] : INT32_MIN;
  return _mm512_loadu_si512(to);
}

static inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  int32_t from[16];
  float to[16];
  memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = (float)from[i];
  return _mm512_loadu_ps(to);
}

// SIMDe's own makes the power an f32, which it may be too large for.
#undef _mm512_scalef_ps
static inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  float from[16];
  float by[16];
  memcpy(from, &a, sizeof from);
  memcpy(by, &b, sizeof by);
  for (int i = 0; i < 16; ++i) from[i] = ldexpf(from[i], (int)floorf(by[i]));
  return _mm512_loadu_ps(from);
}

static inline __mmask16 _mm512_mask_cmplt_epu32_mask(__mmask16 mask, __m512i a, __m512i b) {
  uint32_t left[16];
  uint32_t right[16];
  memcpy(left, &a, sizeof left);
  memcpy(right, &b, sizeof right);
  unsigned less = 0;
  for (int i = 0; i < 16; ++i) less |= (unsigned)(left[i] < right[i]) << i;
  return (__mmask16)(mask & less);
}

// Subnormal elements and results count as 0 where bf16 is multiplied.
static inline float emulated_flush(float x) { return fabsf(x) < 0x1p-126F ? copysignf(0.0F, x) : x; }
static inline float emulated_bf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return emulated_flush(x);
}

// Two fused multiply-adds, the odd elements' first (Intel SDM, VDPBF16PS).
#undef _mm512_dpbf16_ps
static inline __m512 _mm512_dpbf16_ps(__m512 c, __m512bh a, __m512bh b) {
  float sums[16];
  uint16_t left[32];
  uint16_t right[32];
  memcpy(sums, &c, sizeof sums);
  memcpy(left, &a, sizeof left);
  memcpy(right, &b, sizeof right);
  for (int i = 0; i < 16; ++i) {
    for (int k = 2 * i + 1; k >= 2 * i; --k) {
      sums[i] = emulated_flush(fmaf(emulated_bf16(left[k]), emulated_bf16(right[k]), sums[i]));
    }
  }
  return _mm512_loadu_ps(sums);
}

// AMX: eight tiles of 16 rows of 64 bytes, the only configuration in use (Intel SDM, volume 1, chapter 18). Tiles hold
// rubbish until the configuration is loaded, which sets them to 0.
static thread_local unsigned char emulated_tiles[8][16][64];

static inline void _tile_loadconfig(const void* config) {
  const unsigned char* bytes = (const unsigned char*)config;
  for (int t = 0; t < 8; ++t) {
    if (bytes[0] != 1 || bytes[16 + 2 * t] != 64 || bytes[17 + 2 * t] != 0 || bytes[48 + t] != 16) __builtin_trap();
  }
  memset(emulated_tiles, 0, sizeof emulated_tiles);
}
static inline void _tile_release() { memset(emulated_tiles, 0xA5, sizeof emulated_tiles); }
static inline void _tile_zero(int t) { memset(emulated_tiles[t], 0, sizeof emulated_tiles[t]); }
static inline void _tile_loadd(int t, const void* from, long stride) {
  for (int row = 0; row < 16; ++row) memcpy(emulated_tiles[t][row], (const char*)from + row * stride, 64);
}
static inline void _tile_stored(int t, void* to, long stride) {
  for (int row = 0; row < 16; ++row) memcpy((char*)to + row * stride, emulated_tiles[t][row], 64);
}

// c[m][n] += the sum over k of a[m][4 k + i] b[k][4 n + i], A and B the types of the bytes.
template <class A, class B>
static inline void emulated_multiply(int c, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    int32_t sums[16];
    memcpy(sums, emulated_tiles[c][m], sizeof sums);
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) {
        for (int i = 0; i < 4; ++i) sums[n] += (A)emulated_tiles[a][m][4 * k + i] * (B)emulated_tiles[b][k][4 * n + i];
      }
    }
    memcpy(emulated_tiles[c][m], sums, sizeof sums);
  }
}
static inline void _tile_dpbssd(int c, int a, int b) { emulated_multiply<int8_t, int8_t>(c, a, b); }
static inline void _tile_dpbsud(int c, int a, int b) { emulated_multiply<int8_t, uint8_t>(c, a, b); }
static inline void _tile_dpbusd(int c, int a, int b) { emulated_multiply<uint8_t, int8_t>(c, a, b); }
static inline void _tile_dpbuud(int c, int a, int b) { emulated_multiply<uint8_t, uint8_t>(c, a, b); }

// c[m][n] += even + odd, where even and odd are the sums over k, each a chain of fused multiply-adds from 0, of
// a[m][2 k + i] b[k][2 n + i] with i = 0 and 1; subnormal elements and results count as 0 (Intel SDM, TDPBF16PS). The
// product is exact in f64; that a sum is rounded to f64 first can be seen in its last bit only, and seldom.
static inline void emulated_decode(int t, float (*elements)[32]) {
  for (int row = 0; row < 16; ++row) {
    for (int i = 0; i < 32; ++i) {
      uint16_t half;
      memcpy(&half, &emulated_tiles[t][row][2 * i], sizeof half);
      elements[row][i] = emulated_bf16(half);
    }
  }
}
static inline void _tile_dpbf16ps(int c, int a, int b) {
  float left[16][32];
  float right[16][32];
  emulated_decode(a, left);
  emulated_decode(b, right);
  for (int m = 0; m < 16; ++m) {
    float chains[2][16] = {};
    for (int k = 0; k < 16; ++k) {
      for (int i = 0; i < 2; ++i) {
        for (int n = 0; n < 16; ++n) {
          const double product = (double)left[m][2 * k + i] * (double)right[k][2 * n + i];
          chains[i][n] = emulated_flush((float)(product + (double)chains[i][n]));
        }
      }
    }
    float sums[16];
    memcpy(sums, emulated_tiles[c][m], sizeof sums);
    for (int n = 0; n < 16; ++n) sums[n] = emulated_flush(sums[n] + emulated_flush(chains[0][n] + chains[1][n]));
    memcpy(emulated_tiles[c][m], sums, sizeof sums);
  }
}
