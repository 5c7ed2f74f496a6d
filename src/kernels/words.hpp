// Rows of elements as rows of integers of 16 bits ("words"), for integer products (kernels/word_sums.hpp); for files
// compiled for AVX2.
//
// A row has a unit U, a power of two. An element x is x' U + rest, x' = trunc(x / U) where that has at most 15 bits and
// 0 where it has more, and those with a rest are listed. The unit chosen by the greatest element leaves one element of
// bf16 in a hundred with a rest where data are normal. Where a few elements tower over the others it is chosen to leave
// the fewest.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/avx2_vectors.hpp"

namespace isologit::detail::kernels {
namespace {

// The elements of a row that have a rest, in ascending order of their place, and what its words count in.
struct WordRow {
  struct Rest {
    std::int64_t at;
    double value;
  };
  double unit;
  std::int64_t count;
  bool cut;   // some elements are 2^15 units or more
  bool fits;  // false: nothing else holds

  // Behind it, with room for eight more than are allowed.
  Rest* rests() { return reinterpret_cast<Rest*>(this + 1); }
  const Rest* rests() const { return reinterpret_cast<const Rest*>(this + 1); }

  static std::int64_t most(std::int64_t size) { return size / 16 + 16; }
  static std::int64_t bytes(std::int64_t size) {
    return static_cast<std::int64_t>(sizeof(WordRow)) + (most(size) + 8) * static_cast<std::int64_t>(sizeof(Rest));
  }
};

constexpr std::int64_t kWordStep = 16;  // elements whose words are made together

constexpr int kWordBits = 15;

// Begins a row in units of 2^unit. False where that, or its inverse, is near the ends of f32's range.
inline bool begin_words(WordRow& row, int unit, double greatest) {
  if (greatest != 0 && !(greatest >= 0x1p-60 && greatest <= 0x1p60)) return false;
  if (unit < -75 || unit > 60) return false;
  row.unit = std::bit_cast<double>(static_cast<std::uint64_t>(unit + 1023) << 52);
  row.count = 0;
  row.cut = greatest >= row.unit * 0x1p15;
  return true;
}

inline int greatest_unit(double greatest) {
  if (greatest == 0) return 0;
  return static_cast<int>(std::bit_cast<std::uint64_t>(greatest) >> 52) - 1023 + 1 - kWordBits;
}

// The integers of eight elements, and what of each is left.
struct Words {
  __m256i integers;
  __m256 rests;
};
template <bool kCut>
Words words_of(__m256 x, __m256 units, __m256 scale) {
  __m256 scaled = _mm256_mul_ps(x, scale);
  if constexpr (kCut) {
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), scaled);
    scaled = _mm256_and_ps(scaled, _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p15F), _CMP_LT_OQ));
  }
  const __m256i integers = _mm256_cvttps_epi32(scaled);
  return {integers, _mm256_fnmadd_ps(_mm256_cvtepi32_ps(integers), units, x)};
}

// Makes the words of a row's elements [begin, end), `begin` a multiple of kWordStep, in units of row.unit: store(k,
// words) gets sixteen, in the order of the row, and zeros past its end; lists those that have a rest. False where the
// list is too long. kCut as row.cut.
template <DType kDType, bool kCut, class Store>
bool make_some_words(const char* from, std::int64_t begin, std::int64_t end, std::int64_t most, WordRow& row,
                     Store& store) {
  constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
  const __m256 units = _mm256_set1_ps(static_cast<float>(row.unit));
  const __m256 scale = _mm256_set1_ps(static_cast<float>(1 / row.unit));
  const __m256 zero = _mm256_setzero_ps();
  // Steps with a rest, written without asking, since that could not be foretold, and looked through afterwards.
  struct Step {
    alignas(32) float rests[2][8];
    std::int64_t at;
    unsigned which;
  };
  constexpr std::int64_t kSteps = 64;
  Step steps[static_cast<std::size_t>(kSteps + 1)];
  alignas(32) char tail[static_cast<std::size_t>(kWordStep * kSize)] = {};
  for (std::int64_t first = begin; first < end; first += kSteps * kWordStep) {
    std::int64_t count = 0;
    for (std::int64_t k = first; k < std::min(end, first + kSteps * kWordStep); k += kWordStep) {
      const char* at = from + k * kSize;
      if (end - k < kWordStep) {
        std::memcpy(tail, at, static_cast<std::size_t>((end - k) * kSize));
        at = tail;
      }
      __m256 x[2];  // the even elements and the odd ones
      if constexpr (kDType == DType::bf16) {
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        x[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        x[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
      } else {
        const __m256 low = load_floats<kDType>(at);
        const __m256 high = load_floats<kDType>(at + 8 * kSize);
        x[0] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88)), 0xD8));
        x[1] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xDD)), 0xD8));
      }
      const Words even = words_of<kCut>(x[0], units, scale);
      const Words odd = words_of<kCut>(x[1], units, scale);
      store(k, _mm256_blend_epi16(even.integers, _mm256_slli_epi32(odd.integers, 16), 0xAA));
      Step& step = steps[count];
      _mm256_store_ps(step.rests[0], even.rests);
      _mm256_store_ps(step.rests[1], odd.rests);
      const __m256i some = _mm256_packs_epi32(_mm256_castps_si256(_mm256_cmp_ps(even.rests, zero, _CMP_NEQ_UQ)),
                                              _mm256_castps_si256(_mm256_cmp_ps(odd.rests, zero, _CMP_NEQ_UQ)));
      step.which = static_cast<unsigned>(_mm256_movemask_epi8(some)) & 0x55555555;
      step.at = k;
      count += step.which != 0 ? 1 : 0;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      // Of each element two bits: four even ones, four odd ones, and so on.
      for (unsigned left = steps[i].which; left != 0; left &= left - 1) {
        const int lane = std::countr_zero(left) / 2;
        const int odd = lane / 4 % 2;
        const int pair = lane % 4 + lane / 8 * 4;
        if (row.count == most) return false;
        row.rests()[row.count++] = {steps[i].at + 2 * pair + odd, static_cast<double>(steps[i].rests[odd][pair])};
      }
    }
  }
  return true;
}

template <DType kDType, class Store>
bool make_words(const char* from, std::int64_t begin, std::int64_t end, std::int64_t most, WordRow& row,
                Store&& store) {
  return row.cut ? make_some_words<kDType, true>(from, begin, end, most, row, store)
                 : make_some_words<kDType, false>(from, begin, end, most, row, store);
}

}  // namespace
}  // namespace isologit::detail::kernels
