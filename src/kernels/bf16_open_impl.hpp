// What the first pass for bf16 results (kernels/bf16_pass_impl.hpp) leaves open, computed anew, more precisely: by sums
// of four products in f32 (three roundings of u = 2^-24 instead of about sixteen), of two, and by products alone, which
// are exact; what is open then by products and sums in f64 with the sum of the magnitudes as bound. What still is open,
// exact ties and numbers near the ends of the range, is left to the definition.
//
// Sums of s = 4, 2 or 1 products are added up in two parts: upper, to 3/2 of `unit`, a power of two above twice the
// product P of the two rows' numbers |h| |w|, to which all magnitudes add up at most (Cauchy and Schwarz). So the upper
// sum stays near 3/2 unit, and what an addition rounds off is a number of f32 below 2^-23 unit (Dekker's fast two-sum),
// which is added to the lower sum. Of n elements a lane takes m = n / 16 s of those, and five more additions join the
// lanes: the lower sum's roundings are below 16 u (m + 8)^2 / 2 * 2^-23 unit <= 2^-18 (m + 8)^2 u P. That of the upper
// ones is exact.
//
// The time goes to two ports: for 64 elements two products and four additions, where sums in f64 took nine.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "exact/logit.hpp"
#include "kernels/bf16_pass.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::kernels {
namespace {

inline __m512 multiply_add_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// Thirty-two adjacent elements, zeros from `left` on.
inline __m512i load_elements(const char* from, std::int64_t left) {
  if (left >= 32) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi16((std::uint32_t{1} << left) - 1, from);
}

// x rounded once to bf16 is stored where all within `error` of it rounds to the same, overflow and underflow left out;
// else false, and what is stored means nothing.
inline bool round_bf16(double x, double error, char* to) {
  const auto round = [](double end) {
    const auto bits = std::bit_cast<std::uint64_t>(end);
    return (bits + 0xFFFFFFFFFFFU + (bits >> 45 & 1U)) >> 45;
  };
  const double wide = error + std::fabs(x) * 0x1p-51;  // for rounding the two ends
  const std::uint64_t low = round(x - wide);
  const auto near = std::bit_cast<double>(low << 45);
  exact::store_element(to, DType::bf16, near);
  return (low == round(x + wide)) & (std::fabs(near) >= 0x1p-126) & (std::fabs(near) < 0x1p128);
}

// Of a tile of the weight, filled up with rows of zeros: |w| with the roundings as weights and without, and the bias.
struct Bf16Weight {
  float weighted[kBf16Tile];
  float plain[kBf16Tile];
  float bias[kBf16Tile];
};

class OpenResults {
 public:
  // An open result: that of hidden row `open % kPlace` and weight row `open / kPlace` of the tile.
  static constexpr std::uint32_t kPlace = 65536;

  OpenResults(const MatrixView& hidden, const float* hidden_norms, const WeightTile& tile, const Bf16Weight& weight,
              const Bf16Output& to)
      : hidden_(hidden), hidden_norms_(hidden_norms), tile_(tile), weight_(weight), to_(to) {}

  // Settles `count` of them, each step of precision for all that the one before left open.
  void settle(std::uint32_t* open, std::int64_t count, Counts& counts) const {
    count = keep_open<4>(open, count);
    count = keep_open<2>(open, count);
    count = keep_open<1>(open, count);
    for (std::int64_t i = 0; i < count; ++i) settle_alone(open[i], counts);
  }

 private:
  static constexpr std::int64_t kStep = 32;      // elements of a register
  static constexpr std::int64_t kTogether = 16;  // results that are rounded together

  struct TwoParts {
    explicit TwoParts(float unit) : start(_mm512_set1_ps(1.5F * unit)), upper(start), lower(_mm512_setzero_ps()) {}
    void add(__m512 floats) {
      const __m512 sum = _mm512_add_ps(upper, floats);
      lower = _mm512_add_ps(lower, _mm512_sub_ps(floats, _mm512_sub_ps(sum, upper)));
      upper = sum;
    }
    __m512 total() const { return _mm512_sub_ps(upper, start); }
    __m512 start, upper, lower;
  };

  const char* hidden_row(std::uint32_t open) const {
    return static_cast<const char*>(exact::row_data(hidden_, open % kPlace));
  }
  const char* weight_row(std::uint32_t open) const {
    return static_cast<const char*>(exact::row_data(*tile_.weight, tile_.first + open / kPlace));
  }
  char* place(std::uint32_t open) const { return to_.data + (open % kPlace * to_.row_stride + open / kPlace) * 2; }

  // Of one step of two rows, whose sums of kTerms products are added to `to`.
  template <std::int64_t kTerms>
  static void add_step(const char* a, const char* b, std::int64_t left, TwoParts& to) {
    const __m512i x = load_elements(a, left);
    const __m512i y = load_elements(b, left);
    if constexpr (kTerms == 1) {  // odd and even elements apart, beside products with 0
      const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
      to.add(multiply_add_pairs(_mm512_setzero_ps(), _mm512_and_si512(x, odd), y));
      to.add(multiply_add_pairs(_mm512_setzero_ps(), _mm512_andnot_si512(odd, x), y));
    } else {
      to.add(multiply_add_pairs(_mm512_setzero_ps(), x, y));
    }
  }

  template <std::int64_t kTerms>
  static void add_two_steps(const char* a, const char* b, TwoParts& to) {
    if constexpr (kTerms == 4) {
      const __m512 first = multiply_add_pairs(_mm512_setzero_ps(), _mm512_loadu_si512(a), _mm512_loadu_si512(b));
      to.add(multiply_add_pairs(first, _mm512_loadu_si512(a + 2 * kStep), _mm512_loadu_si512(b + 2 * kStep)));
    } else {
      add_step<kTerms>(a, b, kStep, to);
      add_step<kTerms>(a + 2 * kStep, b + 2 * kStep, kStep, to);
    }
  }

  // The sums of two open results, from sums of kTerms products. `next` are the two that come after: hidden rows come
  // from L2, and without being called for early took twice as long.
  template <std::int64_t kTerms>
  void sums_of_two(const std::uint32_t* open, const std::uint32_t* next, const float* units, double* sums) const {
    const char* a[2] = {hidden_row(open[0]), hidden_row(open[1])};
    const char* b[2] = {weight_row(open[0]), weight_row(open[1])};
    const char* ahead[2] = {hidden_row(next[0]), hidden_row(next[1])};
    TwoParts of[2] = {TwoParts(units[0]), TwoParts(units[1])};
    const std::int64_t size = hidden_.cols;
    std::int64_t k = 0;
    for (; k + 2 * kStep <= size; k += 2 * kStep) {
      for (std::size_t i = 0; i < 2; ++i) {
        __builtin_prefetch(ahead[i] + 2 * k);
        __builtin_prefetch(ahead[i] + 2 * k + 64);
        add_two_steps<kTerms>(a[i] + 2 * k, b[i] + 2 * k, of[i]);
      }
    }
    for (; k < size; k += kStep) {
      for (std::size_t i = 0; i < 2; ++i) add_step<kTerms>(a[i] + 2 * k, b[i] + 2 * k, size - k, of[i]);
    }
    const __m128 parts = sums_of_lanes(of[0].total(), of[1].total(), of[0].lower, of[1].lower);
    _mm_storeu_pd(sums, _mm_add_pd(_mm_cvtps_pd(parts), _mm_cvtps_pd(_mm_movehl_ps(parts, parts))));
  }

  static __m128 sums_of_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    const __m512 all =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }

  // Of the open results those that sums of kTerms products do not settle; returns how many.
  template <std::int64_t kTerms>
  std::int64_t keep_open(std::uint32_t* open, std::int64_t count) const {
    const auto additions = static_cast<float>(hidden_.cols / (16 * kTerms) + 8);
    const float factor = (kTerms - 1 + 0x1p-18F * additions * additions) * (0x1p-24F * (1 + 0x1p-9F));
    std::int64_t left = 0;
    for (std::int64_t first = 0; first < count; first += kTogether) {
      const std::int64_t held = std::min(kTogether, count - first);
      std::uint32_t these[kTogether + 2];
      for (std::int64_t i = 0; i < kTogether + 2; ++i) these[i] = open[std::min(first + i, count - 1)];
      float reach[kTogether];
      float units[kTogether];
      float bias[kTogether];
      double sums[kTogether] = {};
      for (std::int64_t i = 0; i < kTogether; ++i) {
        const std::uint32_t j = these[i] / kPlace;
        reach[i] = weight_.plain[j] * hidden_norms_[these[i] % kPlace];
        units[i] = std::bit_cast<float>((std::bit_cast<std::uint32_t>(reach[i]) & 0x7F800000U) + 0x1000000U);
        bias[i] = weight_.bias[j];
      }
      for (std::int64_t i = 0; i < held; i += 2) sums_of_two<kTerms>(these + i, these + i + 2, units + i, sums + i);
      std::uint16_t results[2 * kTogether];
      const std::uint32_t settled =
          round(sums, bias, _mm512_mul_ps(_mm512_loadu_ps(reach), _mm512_set1_ps(factor)), results);
      for (std::int64_t i = 0; i < held; ++i) std::memcpy(place(these[i]), results + i, 2);
      const auto again = static_cast<__mmask16>(~settled & ((std::uint32_t{1} << held) - 1));
      _mm512_mask_compressstoreu_epi32(open + left, again, _mm512_loadu_si512(these));
      left += std::popcount(static_cast<std::uint32_t>(again));
    }
    return left;
  }

  // Rounds sixteen numbers to bf16; returns which are settled: all within `errors` rounds to the same, a normal number
  // or infinity, and the error is a number that is not huge.
  static std::uint32_t round(const double* sums, const float* bias, __m512 errors, std::uint16_t* results) {
    constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    constexpr int kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
    __m256 low[2];
    __m256 high[2];
    const __m256 halves[2] = {_mm512_castps512_ps256(errors), _mm512_extractf32x8_ps(errors, 1)};
    for (std::int64_t i = 0; i < 2; ++i) {
      const __m512d x = _mm512_add_pd(_mm512_loadu_pd(sums + 8 * i), _mm512_cvtps_pd(_mm256_loadu_ps(bias + 8 * i)));
      // 2^-51 for rounding x and the two ends
      const __m512d wide = _mm512_fmadd_pd(_mm512_abs_pd(x), _mm512_set1_pd(0x1p-51), _mm512_cvtps_pd(halves[i]));
      low[i] = _mm512_cvt_roundpd_ps(_mm512_sub_pd(x, wide), kDown);
      high[i] = _mm512_cvt_roundpd_ps(_mm512_add_pd(x, wide), kUp);
    }
    const auto lows = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(joined(high), joined(low)));
    _mm512_storeu_si512(results, lows);
    const __m256i a = _mm512_castsi512_si256(lows);
    const __m256i b = _mm512_extracti64x4_epi64(lows, 1);
    const std::uint32_t same = _mm256_cmpeq_epi16_mask(a, b);
    const std::uint32_t normal = _mm256_test_epi16_mask(a, _mm256_set1_epi16(0x7F80));
    return same & normal & _mm512_cmp_ps_mask(errors, _mm512_set1_ps(0x1p80F), _CMP_LT_OQ);
  }

  static __m512 joined(const __m256 (&halves)[2]) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(halves[0]), halves[1], 1);
  }

  static __m512d widen(const char* from, std::int64_t left) {
    const auto mask = static_cast<__mmask16>(left >= 8 ? 0xFF : (1U << left) - 1);
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))));
  }

  // For rows of any numbers: the sum in f64 of exact products, and of their magnitudes.
  static void wide_sum(const char* a, const char* b, std::int64_t size, double& sum, double& magnitude) {
    __m512d sums = _mm512_setzero_pd();
    __m512d magnitudes = _mm512_setzero_pd();
    for (std::int64_t k = 0; k < size; k += 8, a += 16, b += 16) {
      const __m512d product = _mm512_mul_pd(widen(a, size - k), widen(b, size - k));
      sums = _mm512_add_pd(sums, product);
      magnitudes = _mm512_add_pd(magnitudes, _mm512_abs_pd(product));
    }
    sum = _mm512_reduce_add_pd(sums);
    magnitude = _mm512_reduce_add_pd(magnitudes);
  }

  void settle_alone(std::uint32_t open, Counts& counts) const {
    const std::int64_t size = hidden_.cols;
    const char* h = hidden_row(open);
    const char* w = weight_row(open);
    const float bias = weight_.bias[open / kPlace];
    double sum = 0;
    double magnitude = 0;
    wide_sum(h, w, size, sum, magnitude);
    const double error = magnitude * (static_cast<double>(size + 8) * 0x1p-53);
    if (settle_wide(sum + static_cast<double>(bias), error, place(open))) return;
    ++counts.fallbacks;
    exact::store_element(place(open), DType::bf16,
                         exact::logit(h, DType::bf16, w, DType::bf16, size, bias, exact::kBf16));
  }

  // Of finite products none overflows in f64.
  static bool settle_wide(double sum, double error, char* at) {
    if (!std::isnan(sum) && !std::isinf(sum)) return round_bf16(sum, error, at);
    exact::store_element(at, DType::bf16, std::isnan(sum) ? static_cast<double>(exact::quiet_nan()) : sum);
    return true;
  }

  const MatrixView& hidden_;
  const float* hidden_norms_;
  const WeightTile& tile_;
  const Bf16Weight& weight_;
  const Bf16Output& to_;
};

}  // namespace
}  // namespace isologit::detail::kernels
