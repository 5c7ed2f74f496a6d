// Rows of elements as rows of digits, for integer products (kernels/digit_sums.hpp); for files compiled for AVX-512.
//
// A row has a unit u, a power of two. An element x that is an integer i = x / u in [-2^23, 2^23) is inside the row's
// window and taken apart into i = d2 2^16 + d1 2^8 + d0 with d2 in [-128, 127], d1 and d0 in [0, 255]. All others, too
// large, too small or not finite, are outside: their digits are 0 and they are listed whole. The unit is chosen by the
// greatest element, which in normal data leaves 1 in 20,000 elements of bf16 outside, below. Where a few elements tower
// over the others and would push many out, it is chosen to leave the fewest outside at both ends. Kernels that multiply
// the lowest digits apart want few of them: for these it leaves the fewest that are outside or have one.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact/element.hpp"
#include "kernels/avx512_vectors.hpp"
#include "kernels/magnitude.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/window.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kDigits = 3;
constexpr std::int64_t kStep = 64;  // elements whose digits are made, stored and multiplied together
constexpr std::int64_t kMostOutside = 64;

constexpr std::int64_t steps_of(std::int64_t size) { return (size + kStep - 1) / kStep; }

// Beside the digits: what they count in, and the elements outside, in ascending order of their place.
struct DigitRow {
  struct Outside {
    std::int32_t at;
    float value;
  };
  double unit;
  std::int64_t outside;  // how many are listed
  bool fits;             // false where more than kMostOutside elements are outside: then nothing else holds
  Outside list[kMostOutside];

  bool lists(std::int32_t place) const {
    return std::any_of(list, list + outside, [&](const Outside& one) { return one.at == place; });
  }
};

// The integers of 64 elements of bf16 in units of 2^unit, when all fit: sixteen-bit integers are shifted to their
// place, to give the lower sixteen bits and the others apart, of 32 elements a register. An element is +-m 2^(e - 134),
// m in [128, 255], and inside the window where e - 134 - unit is in [0, 15]; false where another one than +0 is not
// found to be. Holds for least <= unit <= greatest: subnormal elements, and those that are not finite, are then
// outside.
constexpr int kLeastShortUnit = 1 - 134;
constexpr int kGreatestShortUnit = 254 - 15 - 134;
inline bool short_integers(const char* from, int unit, __m512i (&low)[2], __m512i (&high)[2]) {
  const __m512i first = _mm512_set1_epi16(static_cast<std::int16_t>(134 + unit));
  const __m512i last = _mm512_set1_epi16(static_cast<std::int16_t>(134 + unit + 16));
  __m512i outside[2];
  for (int i = 0; i < 2; ++i) {
    const __m512i x = _mm512_loadu_si512(from + i * 64);
    const __m512i exponent = _mm512_srli_epi16(_mm512_slli_epi16(x, 1), 8);
    const __m512i shift = _mm512_sub_epi16(exponent, first);
    const __m512i significand = _mm512_or_si512(_mm512_and_si512(x, _mm512_set1_epi16(0x7F)), _mm512_set1_epi16(0x80));
    const __m512i sign = _mm512_srai_epi16(x, 15);
    const __m512i m = _mm512_sub_epi16(_mm512_xor_si512(significand, sign), sign);
    low[i] = _mm512_sllv_epi16(m, shift);
    high[i] = _mm512_srav_epi16(m, _mm512_sub_epi16(last, exponent));
    outside[i] = _mm512_min_epu16(x, _mm512_subs_epu16(shift, _mm512_set1_epi16(15)));
  }
  const __m512i any = _mm512_or_si512(outside[0], outside[1]);
  return _mm512_test_epi16_mask(any, any) == 0;
}

// Sixteen elements as integers times 2^unit, 0 for those outside.
inline __m512i integers(__m512 x, __m512 unit, __m512 minus_unit, __mmask16& inside) {
  const __m512i i = _mm512_cvttps_epi32(_mm512_scalef_ps(x, minus_unit));
  // Scaled back, so that no element that vanished in the first scaling is taken for 0.
  const __mmask16 same = _mm512_cmp_ps_mask(_mm512_scalef_ps(_mm512_cvtepi32_ps(i), unit), x, _CMP_EQ_OQ);
  inside =
      _mm512_mask_cmplt_epu32_mask(same, _mm512_add_epi32(i, _mm512_set1_epi32(1 << 23)), _mm512_set1_epi32(1 << 24));
  return _mm512_maskz_mov_epi32(inside, i);
}

// The digits of 64 elements, the lowest first. Within a digit's 64 bytes the elements stand in an order of their own,
// the same for all rows: in each sixteen 8 of the first 32 elements and 8 of the others.
struct Digits {
  __m512i digit[kDigits];

  void of_short(const __m512i (&low)[2], const __m512i (&high)[2]) {
    const __m512i byte = _mm512_set1_epi16(0xFF);
    digit[0] = _mm512_packus_epi16(_mm512_and_si512(low[0], byte), _mm512_and_si512(low[1], byte));
    digit[1] = _mm512_packus_epi16(_mm512_srli_epi16(low[0], 8), _mm512_srli_epi16(low[1], 8));
    digit[2] = _mm512_packs_epi16(high[0], high[1]);
  }
  void of_integers(const __m512i (&integers)[4]) {
    const __m512i by_digit = _mm512_set4_epi32(0x0F0B0703, 0x0E0A0602, 0x0D090501, 0x0C080400);
    __m512i v[4];
    for (int i = 0; i < 4; i += 2) {
      const __m512i even = _mm512_shuffle_i32x4(integers[i], integers[i + 1], 0x88);
      const __m512i odd = _mm512_shuffle_i32x4(integers[i], integers[i + 1], 0xDD);
      v[i] = _mm512_shuffle_epi8(even, by_digit);
      v[i + 1] = _mm512_shuffle_epi8(odd, by_digit);
    }
    const __m512i low_01 = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i low_23 = _mm512_unpacklo_epi32(v[2], v[3]);
    digit[0] = _mm512_unpacklo_epi64(low_01, low_23);
    digit[1] = _mm512_unpackhi_epi64(low_01, low_23);
    digit[2] = _mm512_unpacklo_epi64(_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
  }
};

// The two upper digits as one integer of sixteen bits with a sign, and the lowest digit as one, of 32 elements a
// register, in their order.
struct Words {
  __m512i word[2];
  __m512i lowest[2];

  void of_short(const __m512i (&low)[2], const __m512i (&high)[2]) {
    for (int i = 0; i < 2; ++i) {
      word[i] = _mm512_or_si512(_mm512_slli_epi16(high[i], 8), _mm512_srli_epi16(low[i], 8));
      lowest[i] = _mm512_and_si512(low[i], _mm512_set1_epi16(0xFF));
    }
  }
  void of_integers(const __m512i (&integers)[4]) {
    const auto both = [](__m512i first, __m512i second) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(first)), _mm512_cvtepi32_epi16(second), 1);
    };
    const __m512i byte = _mm512_set1_epi32(0xFF);
    for (int i = 0; i < 2; ++i) {
      const __m512i& first = integers[2 * i];
      const __m512i& second = integers[2 * i + 1];
      word[i] = both(_mm512_srai_epi32(first, 8), _mm512_srai_epi32(second, 8));
      lowest[i] = both(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte));
    }
  }
};

// The place of a step's element within a digit's 64 bytes.
constexpr std::int64_t place_of(std::int64_t element) { return element % 32 / 8 * 16 + element / 32 * 8 + element % 8; }

// Of sixteen rows the integers at a place whose digits are byte `place` % 4 of the words, the lowest first.
inline __m512i integers_at(const __m512i (&words)[kDigits], std::int64_t place) {
  const auto shift = static_cast<unsigned>(place % 4 * 8);
  const __m512i byte = _mm512_set1_epi32(0xFF);
  const __m512i low = _mm512_and_si512(_mm512_srli_epi32(words[0], shift), byte);
  const __m512i middle = _mm512_and_si512(_mm512_srli_epi32(words[1], shift), byte);
  const __m512i high = _mm512_srai_epi32(_mm512_slli_epi32(words[2], 24 - shift), 24);
  return _mm512_or_si512(_mm512_or_si512(low, _mm512_slli_epi32(middle, 8)), _mm512_slli_epi32(high, 16));
}

// Makes the digits of a row in units of 2^unit, as a Form; store(step, form) gets those of each step and tells whether
// to go on.
// False when it does not, or when too many elements are outside. Of a row with a NaN, which makes all its sums NaN,
// only that NaN is listed.
template <class Form, DType kDType, class Store>
bool pack_in_units(const char* from, std::int64_t size, int unit, DigitRow& row, Store& store) {
  constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
  const __m512 scale = _mm512_set1_ps(static_cast<float>(unit));
  const __m512 minus_scale = _mm512_set1_ps(static_cast<float>(-unit));
  row.unit = std::ldexp(1.0, unit);
  row.outside = 0;
  const std::int64_t ahead = std::max(kAhead, size * kSize);  // whole rows: each is looked through before it is packed
  const bool is_short = kDType == DType::bf16 && unit >= kLeastShortUnit && unit <= kGreatestShortUnit;
  alignas(64) char tail[static_cast<std::size_t>(kStep * kSize)] = {};  // the last step's, where it is not whole
  for (std::int64_t k = 0; k < size; k += kStep) {
    const char* at = from + k * kSize;
    for (std::int64_t line = 0; line < kStep * kSize; line += kLine) prefetch(at + line, ahead);
    if (size - k < kStep) {
      std::memcpy(tail, at, static_cast<std::size_t>((size - k) * kSize));
      at = tail;
    }
    Form form;
    __m512i low[2];
    __m512i high[2];
    if (is_short && short_integers(at, unit, low, high)) {
      form.of_short(low, high);
      if (!store(k / kStep, form)) return false;
      continue;
    }
    __m512i values[4];
    for (std::int64_t i = 0; i < 4; ++i) {
      const __m512 x = load_floats<kDType>(at + i * 16 * kSize);
      __mmask16 inside;
      values[i] = integers(x, scale, minus_scale, inside);
      for (unsigned left = static_cast<std::uint16_t>(~inside); left != 0; left &= left - 1) {
        const std::int64_t place = k + i * 16 + std::countr_zero(left);
        const DigitRow::Outside outside{static_cast<std::int32_t>(place), exact::load_element(from, kDType, place)};
        if (std::isnan(outside.value)) {
          row.list[0] = outside;
          row.outside = 1;
          return true;
        }
        if (row.outside == kMostOutside) return false;
        row.list[row.outside++] = outside;
      }
    }
    form.of_integers(values);
    if (!store(k / kStep, form)) return false;
  }
  return true;
}

// `greatest` is the greatest magnitude of the row's elements; `low` of the lowest digits should be 0. Where `store`
// does not go on, units up to 2^headroom greater are tried.
template <class Form, class Store>
void pack_row(const void* from, DType dtype, std::int64_t size, double greatest, int low, int headroom, DigitRow& row,
              Store&& store) {
  const auto pack = [&](int unit) {
    const auto* bytes = static_cast<const char*>(from);
    return exact::with_dtype(
        dtype, [&]<DType kDType>() { return pack_in_units<Form, kDType>(bytes, size, unit, row, store); });
  };
  const bool usual = std::isfinite(greatest) && greatest > 0;
  // Where lowest digits are counted many rows may want it.
  const std::int64_t every = low > 0 && size >= 1024 ? 8 : 1;
  row.fits = false;
  for (int more = 0; usual && more <= headroom && !row.fits; ++more) row.fits = pack(std::ilogb(greatest) - 22 + more);
  if (row.fits) return;
  const int best = best_unit(from, dtype, size, 8 * low, 23 - 8 * low, every);
  for (int more = 0; more <= headroom && !row.fits; ++more) row.fits = pack(best + more);
}

}  // namespace
}  // namespace isologit::detail::kernels
