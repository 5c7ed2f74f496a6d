// AVX512-VNNI: exact integer products of digits (kernels/digit_sums.hpp), sixteen weight rows in the lanes of a
// register by four hidden rows.
//
// Why it is right. An element is an integer of 24 bits in units of its row's: x = 2^8 x' + x0, x' in [-2^15, 2^15), x0
// in [0, 255]. Of the elements of a normal row of bf16 one in a hundred has an x0 that is not 0. So
//
//   sum h w = 2^16 sum h' w' + 2^8 sum h0 w' + sum w0 h
//
// and the two latter are over the few elements that have an h0, or a w0: the places of a row that has them are listed.
// Digits are multiplied as VPDPBUSD takes them, unsigned by signed, which costs an offset:
//
//   hidden u = h' + 2^15, both digits unsigned, and weight s = w' - 2^7, both signed:
//     sum h' w' = sum u s + 2^7 sum u - 2^15 sum w'
//   h0 unsigned and s signed:  sum h0 w' = sum h0 s + 2^7 sum h0
//   w0 unsigned and the three digits of t = h - (2^15 + 2^7) signed:  sum w0 h = sum w0 t + (2^15 + 2^7) sum w0
//
// over all elements, those past the row's end included, which are 0. The sums of a row alone are made once
// (PackedRow::correction). Products, each at most 255 * 128, are added up in int32 by what they count: 2^0, 2^8, ...
// 2^32. The level of 2^24 gets two of each element, and 2 * 255 * 128 * kMostSize is below 2^31. That of 2^16 gets one
// of each element and four of each place that either row lists: five for three elements at most, and 32.
//
// Floor: four products for one of elements, 64 an instruction: 32 multiply-adds a cycle where there are two such
// instructions a cycle and f64 makes 16, half of both where there is one (Zen 4). Predicted for a logit of 4096
// elements and 256 rows, in cycles of the former: products 128, lowest digits 20 (some 45 places a row on either side,
// 5 or 9 instructions each for sixteen logits), weight rows taken apart and turned 16, totals and rounding 10: two
// thirds of the 256 of f64. Measured on a Xeon that others used too, CPU time, ns: products 50, lowest digits 15 (short
// loops, whose ends are mispredicted; one list for sixteen rows, or lists of whole fours, took as long), apart and
// turned 7, the rest 10 with the elements outside; 82 in all, 134 by f64.
//
// Both in ns for an element of the weight, H=4096, avx512 second: 8 rows 0.49 and 0.39, 10 rows 0.54 and 0.48, 12 rows
// 0.56 and 0.61, 16 rows 0.61 and 0.79; in a calmer hour 16 rows 0.56 and 0.64, 64 rows 1.5 and 2.3, 256 rows 5.2 and
// 8.4. H=1024: 10 rows 0.58 and 0.58, 12 rows 0.60 and 0.67, 64 rows 1.7 and 2.2, 256 rows 6.1 and 8.7. Since elements
// outside are multiplied from digits 64 rows of H=4096 take 0.9 of that, 16 rows the same. Since avx512 takes ten
// rows and more by panels, in turns: 12 rows 0.52 and 0.48, 14 rows 0.54 and 0.54, 16 rows 0.56 and 0.59; H=1024 12
// rows 0.58 and 0.54, 14 rows 0.62 and 0.60, 16 rows 0.64 and 0.63.
//
// The loop of four hidden rows is 16 products in 30 instructions, 10 of them loads, for 256 multiply-adds. By llvm-mca
// 14 it takes an Ice Lake 9.1 cycles, 8 by the ports of the products, 0 and 5. On a Zen 4 bare loops of VPDPBUSD,
// VDPBF16PS and multiply-adds of f64 and f32 all take a cycle an instruction (llvm-mca 16 has two, and three for
// VDPBF16PS; 14 knows no Zen 4): 16 cycles for this loop, bound by the two ports that make a product of 512 bits
// together, where loads take 10 and decoding 5; 24 for those of 24 in 38 of avx512, avx512_fast and avx512_bf16_fast.
//
// Processors with AVX-VNNI and no AVX-512 could do the same, eight multiply-adds an instruction where f64 has four; but
// rows are taken apart by AVX-512 (kernels/digits.hpp), so that would be a kernel of its own, which there is not.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/digit_sums.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace vnni {
namespace {

constexpr std::int64_t kSide = 16;              // rows of a group, one a lane
constexpr std::int64_t kPlane = kSide * kStep;  // bytes of one digit of a step of a group: [4 elements][row][element]
constexpr std::int64_t kHiddenStep = 3 * kPlane;
constexpr std::int64_t kWeightStep = 2 * kPlane;  // of s, without w0
constexpr std::int64_t kPieceSteps = 8;           // multiplied together
constexpr std::int64_t kMostSize = 32768;
constexpr std::int64_t kMostPieces = kMostSize / (kPieceSteps * kStep);
constexpr std::int64_t kLevels = 5;
constexpr std::int64_t kLowShare = 12;
// Elements outside of a weight row: each cost 3.6 ns a hidden row, before the digits gave its hidden elements, and
// digits save 50 a logit.
constexpr std::int64_t kMostWeightOutside = 12;

constexpr std::int64_t groups_of(std::int64_t rows) { return (rows + kSide - 1) / kSide; }

inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }
inline void store(void* to, __m512i value) { _mm512_storeu_si512(to, value); }
inline __m512i repeat(const void* from) {
  std::int32_t word;
  std::memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}
inline __m512i flip(__m512i digits) { return _mm512_xor_si512(digits, _mm512_set1_epi8(-128)); }
inline __m512i multiply_add(__m512i sum, __m512i u, __m512i s) { return _mm512_dpbusd_epi32(sum, u, s); }

// Beside a row's digits: the places, four elements each, where a lowest digit is not 0, in ascending order, and what
// the row adds to each of its totals.
class PackedRow {
 public:
  static std::int64_t bytes(std::int64_t size) { return kHeader + 2 * capacity(size) * 4; }

  PackedRow(char* at, std::int64_t size)
      : header_(reinterpret_cast<Header*>(at)),
        places_(reinterpret_cast<std::int32_t*>(at + kHeader)),
        digits_(places_ + capacity(size)) {}

  static std::int64_t most(std::int64_t size) { return size / kLowShare + 4; }

  std::int64_t& correction() const { return header_->correction; }
  // Of piece `piece` the first, in the list.
  std::int32_t& start(std::int64_t piece) const { return header_->starts[piece]; }
  // A place's distance, in bytes, from the beginning of its group's digits of one plane a step, and its lowest digits.
  std::int32_t* places() const { return places_; }
  std::int32_t* digits() const { return digits_; }

 private:
  struct Header {
    std::int64_t correction;
    std::int32_t starts[kMostPieces + 1];
  };
  static constexpr std::int64_t kHeader = (sizeof(Header) + 63) / 64 * 64;
  // Sixteen more, since so many are written at a time.
  static std::int64_t capacity(std::int64_t size) { return (most(size) + kSide + 15) / 16 * 16; }

  Header* header_;
  std::int32_t* places_;
  std::int32_t* digits_;
};

// Takes the digits of a row, step by step, and fills its PackedRow.
class Packer {
 public:
  // `other_step`: bytes of a step of the digits that the row is multiplied by.
  Packer(const PackedRow& row, std::int64_t size, std::int64_t other_step)
      : row_(row), most_(PackedRow::most(size)), other_step_(other_step) {}

  // Whether the list is not too long for these products to be the fastest.
  bool take(std::int64_t step, const __m512i (&digits)[kDigits]) {
    if (step == 0) {
      count_ = pieces_ = 0;
      low_ = middle_ = high_ = _mm512_setzero_si512();
    }
    if (step % kPieceSteps == 0) row_.start(pieces_++) = static_cast<std::int32_t>(count_);
    const __mmask16 some = _mm512_test_epi32_mask(digits[0], digits[0]);
    const __m512i place = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(step * other_step_)), quads_);
    store(row_.places() + count_, _mm512_maskz_compress_epi32(some, place));
    store(row_.digits() + count_, _mm512_maskz_compress_epi32(some, digits[0]));
    count_ += std::popcount(static_cast<std::uint16_t>(some));
    const __m512i ones = _mm512_set1_epi8(1);
    low_ = multiply_add(low_, digits[0], ones);
    middle_ = multiply_add(middle_, digits[1], ones);
    high_ = multiply_add(high_, ones, digits[2]);
    return count_ <= most_;
  }

  // A row with a NaN ends early.
  void finish(std::int64_t pieces) {
    while (pieces_ <= pieces) row_.start(pieces_++) = static_cast<std::int32_t>(count_);
  }

  std::int64_t sum_of_lowest() const { return sum(low_); }
  std::int64_t sum_of_others() const { return 256 * sum(high_) + sum(middle_); }

 private:
  static std::int64_t sum(__m512i lanes) {
    std::int32_t words[16];
    std::memcpy(words, &lanes, sizeof words);
    std::int64_t all = 0;
    for (const std::int32_t word : words) all += word;
    return all;
  }

  PackedRow row_;
  std::int64_t most_;
  std::int64_t other_step_;
  std::int64_t count_ = 0;
  std::int64_t pieces_ = 0;
  __m512i quads_ = _mm512_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960);
  __m512i low_ = _mm512_setzero_si512();
  __m512i middle_ = _mm512_setzero_si512();
  __m512i high_ = _mm512_setzero_si512();
};

// Sums of a hidden row and the 64 rows of a tile: [level][weight row].
using Levels = std::int32_t[kLevels][kTile];

// The four products of u and s, of sixteen weight rows and kH hidden rows side by side. (Not inlined, GCC 12 moves each
// sum to another register and back in every turn of the loop.)
template <std::size_t kH>
[[gnu::always_inline]] inline void multiply(const char* weight, const char* hidden, std::int64_t steps, Levels* levels,
                                            std::int64_t column, Ahead& next) {
  __m512i sum[kH][4];
  for (std::size_t r = 0; r < kH; ++r) {
    for (std::size_t i = 0; i < 3; ++i) sum[r][i] = load(levels[r][2 + i] + column);
    __m512i zero = _mm512_setzero_si512();
    asm volatile("" : "+m"(zero));  // so that GCC 12 does not move those of all rows to and fro in the loop
    sum[r][3] = zero;               // one more of the middle level, so that none waits long for itself
  }
  for (std::int64_t s = 0; s < steps; ++s, weight += kWeightStep, hidden += kHiddenStep) {
    next.fetch(1);
#pragma GCC unroll 2
    for (std::int64_t quad = 0; quad < 16; ++quad) {
      const std::int64_t q = quad * 64;
      const __m512i low = load(weight + q);
      const __m512i high = load(weight + kPlane + q);
      for (std::size_t r = 0; r < kH; ++r) {
        const __m512i h_low = repeat(hidden + kPlane + q + 4 * r);
        sum[r][0] = multiply_add(sum[r][0], h_low, low);
        sum[r][1] = multiply_add(sum[r][1], h_low, high);
        const __m512i h_high = repeat(hidden + 2 * kPlane + q + 4 * r);
        sum[r][2] = multiply_add(sum[r][2], h_high, high);
        sum[r][3] = multiply_add(sum[r][3], h_high, low);
      }
    }
  }
  for (std::size_t r = 0; r < kH; ++r) {
    sum[r][1] = _mm512_add_epi32(sum[r][1], sum[r][3]);
    for (std::size_t i = 0; i < 3; ++i) store(levels[r][2 + i] + column, sum[r][i]);
  }
}

// The rows that are left after the last four.
template <std::size_t kH>
void multiply_rest(const char* weight, const char* hidden, std::int64_t rows, std::int64_t steps, Levels* levels,
                   std::int64_t column, Ahead& next) {
  if constexpr (kH > 0) {
    if (rows != static_cast<std::int64_t>(kH)) {
      return multiply_rest<kH - 1>(weight, hidden, rows, steps, levels, column, next);
    }
    multiply<kH>(weight, hidden, steps, levels, column, next);
  }
}

// The lowest digits of a hidden row, of one piece, times s of sixteen weight rows.
void multiply_low(const PackedRow& hidden, std::int64_t piece, const char* weight, Levels& levels,
                  std::int64_t column) {
  __m512i low = load(levels[1] + column);
  __m512i high = load(levels[2] + column);
  for (std::int64_t i = hidden.start(piece); i < hidden.start(piece + 1); ++i) {
    const char* at = weight + hidden.places()[i];
    const __m512i digits = repeat(hidden.digits() + i);
    low = multiply_add(low, digits, load(at));
    high = multiply_add(high, digits, load(at + kPlane));
  }
  store(levels[1] + column, low);
  store(levels[2] + column, high);
}

// Sums of a weight row and the sixteen hidden rows of a group: [level][hidden row].
using Across = std::int32_t[3][kSide];

// The lowest digits of a weight row, of one piece, times t of sixteen hidden rows.
void multiply_low(const PackedRow& weight, std::int64_t piece, const char* hidden, Across& sums) {
  __m512i sum[3] = {load(sums[0]), load(sums[1]), load(sums[2])};
  for (std::int64_t i = weight.start(piece); i < weight.start(piece + 1); ++i) {
    const char* at = hidden + weight.places()[i];
    const __m512i digits = repeat(weight.digits() + i);
    sum[0] = multiply_add(sum[0], digits, load(at));
    sum[1] = multiply_add(sum[1], digits, flip(load(at + kPlane)));
    sum[2] = multiply_add(sum[2], digits, flip(load(at + 2 * kPlane)));
  }
  for (std::int64_t level = 0; level < 3; ++level) store(sums[level], sum[level]);
}

struct Products {
  static constexpr std::int64_t kBlockRows = 256;
  static constexpr std::int64_t kMostSize = vnni::kMostSize;

  // A block's part: digits[group of 16 rows][step][digit][4 elements][16 rows][element], the lowest digit as t has it,
  // the others as u; PackedRow of each row.
  static std::int64_t hidden_size(std::int64_t rows, std::int64_t size) {
    return (groups_of(rows) * steps_of(size) * kHiddenStep + rows * PackedRow::bytes(size)) / 8;
  }
  // Levels of the rows; Across[group][weight row]; digits of s[group of 16 weight rows][step][digit][4 elements][row]
  // [element]; PackedRow of each row of a tile.
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return (sums_bytes(rows) + kTile * (2 * steps_of(size) * kStep + PackedRow::bytes(size))) / 8;
  }

  static void pack_hidden(const void* row, DType dtype, std::int64_t size, double greatest, std::int64_t index,
                          std::int64_t rows, DigitRow& digit_row, double* to) {
    const std::int64_t steps = steps_of(size);
    auto* bytes = reinterpret_cast<char*>(to);
    char* digits = bytes + index / kSide * steps * kHiddenStep;
    const PackedRow own = packed_row(bytes, rows, index, size);
    Packer packer(own, size, kWeightStep);
    pack_row(row, dtype, size, greatest, 1, digit_row, [&](std::int64_t step, const __m512i(&values)[kDigits]) {
      store_column(digits + step * kHiddenStep, index % kSide, values);
      return packer.take(step, values);
    });
    packer.finish(pieces_of(size));
    const std::int64_t sum = packer.sum_of_others() + steps * kStep * 0x8000;
    own.correction() = (sum << 23) + (packer.sum_of_lowest() << 15);
    if (index != rows - 1) return;
    const __m512i zeros[kDigits] = {};
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) {
      for (std::int64_t step = 0; step < steps; ++step) store_column(digits + step * kHiddenStep, column, zeros);
    }
  }

  Products(const double* hidden, std::int64_t count, std::int64_t elements, double* scratch)
      : hidden_(reinterpret_cast<const char*>(hidden)),
        rows_(count),
        size_(elements),
        steps_(steps_of(elements)),
        levels_(reinterpret_cast<Levels*>(scratch)),
        across_(reinterpret_cast<Across*>(levels_ + count)),
        digits_(reinterpret_cast<char*>(scratch) + sums_bytes(count)),
        packed_(digits_ + kTile * 2 * steps_ * kStep) {}

  // False for other weights than of bf16 too: of a row of f16 one element in ten has a lowest digit, and the sums took
  // 1.06 times as long as those of f64; of f32 all have one.
  // Sixteen rows of the tile at a time where the block's digits stay in L2 for all of them.
  bool multiply(const WeightTile& tile, DigitRow* weight_rows, std::int64_t& outside, SeenRows& seen) {
    if (tile.weight->dtype != DType::bf16) return false;
    std::memset(levels_, 0, static_cast<std::size_t>(sums_bytes(rows_)));
    const std::int64_t part = groups_of(rows_) * steps_ * kHiddenStep <= kMostKept ? kSide : kTile;
    for (std::int64_t begin = 0; begin < tile.count; begin += part) {
      const std::int64_t end = std::min(begin + part, tile.count);
      for (std::int64_t j = begin; j < end; j += kSide) {
        if (!pack_group(tile, j, std::min(j + kSide, end), j - begin, weight_rows, outside, seen)) return false;
      }
      multiply_part({tile.weight, tile.bias, tile.first + begin, end - begin}, begin);
    }
    add_across(tile.count);
    return true;
  }

  __m512i hidden_column(std::int64_t group, std::int64_t at) const {
    const std::int64_t place = place_of(at % kStep);
    const char* from = hidden_ + (group * steps_ + at / kStep) * kHiddenStep + place / 4 * 64;
    return integers_at({flip(load(from)), load(from + kPlane), flip(load(from + 2 * kPlane))}, place);
  }

  std::int64_t total(std::int64_t r, std::int64_t j) const {
    std::uint64_t sum = 0;
    for (std::int64_t level = kLevels; level-- > 0;) {
      sum = sum * 256 + static_cast<std::uint64_t>(std::int64_t{levels_[r][level][j]});
    }
    return static_cast<std::int64_t>(sum + static_cast<std::uint64_t>(hidden_row(r).correction()) +
                                     static_cast<std::uint64_t>(weight_row(j).correction()));
  }

  void to_doubles(const DigitRow* hidden_rows, const DigitRow* weight_rows, std::int64_t count, double* sums) const {
    alignas(64) double units[kTile] = {};
    alignas(64) std::int64_t corrections[kTile] = {};
    for (std::int64_t j = 0; j < count; ++j) {
      units[j] = weight_rows[j].unit;
      corrections[j] = weight_row(j).correction();
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      const __m512i correction = _mm512_set1_epi64(hidden_row(r).correction());
      const __m512d unit = _mm512_set1_pd(hidden_rows[r].unit);
      for (std::int64_t j = 0; j < count; j += 8) {
        __m512i sum = _mm512_setzero_si512();
        for (std::int64_t level = kLevels; level-- > 0;) {
          const auto* from = reinterpret_cast<const __m256i*>(levels_[r][level] + j);
          sum = _mm512_add_epi64(_mm512_slli_epi64(sum, 8), _mm512_cvtepi32_epi64(_mm256_loadu_si256(from)));
        }
        sum = _mm512_add_epi64(sum, _mm512_add_epi64(correction, load(corrections + j)));
        const __m512d both = _mm512_mul_pd(unit, _mm512_loadu_pd(units + j));
        _mm512_storeu_pd(sums + r * kTile + j, _mm512_mul_pd(_mm512_cvtepi64_pd(sum), both));
      }
    }
  }

  static std::int64_t multiply_adds(std::int64_t steps) {
    __m512i sum[16];
    for (__m512i& one : sum) one = _mm512_setzero_si512();
    __m512i factor = _mm512_set1_epi8(1);
    asm volatile("" : "+m"(factor));  // so that nothing is known of it
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
      for (__m512i& one : sum) one = multiply_add(one, factor, factor);
    }
    for (const __m512i& one : sum) factor = _mm512_add_epi32(factor, one);
    asm volatile("" : "+m"(factor));  // so that the sums are needed
    return steps * 16 * kStep / 4;
  }

 private:
  static constexpr std::int64_t kMostKept = 1 << 20;  // bytes of digits of a block, half of an L2

  static std::int64_t pieces_of(std::int64_t size) { return (steps_of(size) + kPieceSteps - 1) / kPieceSteps; }
  static std::int64_t sums_bytes(std::int64_t rows) {
    return static_cast<std::int64_t>(sizeof(Levels)) * rows +
           static_cast<std::int64_t>(sizeof(Across)) * groups_of(rows) * kTile;
  }

  static PackedRow packed_row(const char* hidden, std::int64_t rows, std::int64_t r, std::int64_t size) {
    const char* first = hidden + groups_of(rows) * steps_of(size) * kHiddenStep;
    return {const_cast<char*>(first) + r * PackedRow::bytes(size), size};
  }
  PackedRow hidden_row(std::int64_t r) const { return packed_row(hidden_, rows_, r, size_); }
  PackedRow weight_row(std::int64_t j) const { return {packed_ + j * PackedRow::bytes(size_), size_}; }

  static void store_column(char* step, std::int64_t column, const __m512i (&digits)[kDigits]) {
    const __m512i as_kept[kDigits] = {flip(digits[0]), digits[1], flip(digits[2])};
    for (std::int64_t d = 0; d < kDigits; ++d) {
      std::uint32_t words[kSide];
      std::memcpy(words, &as_kept[d], sizeof words);
      for (std::int64_t k = 0; k < kSide; ++k) {
        std::memcpy(step + d * kPlane + (k * kSide + column) * 4, &words[k], 4);
      }
    }
  }

  // Rows [begin, end) of the tile, at most sixteen, as rows [to, to + 16) of the digits. False when one has none.
  bool pack_group(const WeightTile& tile, std::int64_t begin, std::int64_t end, std::int64_t to, DigitRow* weight_rows,
                  std::int64_t& outside, SeenRows& seen) const {
    char* digits = digits_ + to / kSide * steps_ * kWeightStep;
    const auto pack = [&](std::int64_t j, const char* from, double greatest) {
      const PackedRow own = weight_row(j);
      Packer packer(own, size_, kHiddenStep);
      char* row = digits + (j - begin) * kStep;
      pack_row(from, tile.weight->dtype, size_, greatest, 1, weight_rows[j],
               [&](std::int64_t step, const __m512i(&values)[kDigits]) {
                 store(row + step * kWeightStep, flip(values[1]));
                 store(row + step * kWeightStep + kPlane, values[2]);
                 return packer.take(step, values);
               });
      weight_rows[j].fits = weight_rows[j].fits && weight_rows[j].outside <= kMostWeightOutside;
      packer.finish(pieces_of(size_));
      own.correction() = packer.sum_of_lowest() * (0x8000 + 0x80) - packer.sum_of_others() * 0x80000000;
    };
    if (!pack_weight(tile, begin, end, weight_rows, outside, seen, pack)) return false;
    for (char* plane = digits; plane < digits + steps_ * kWeightStep; plane += kPlane) {
      __m512i rows[kSide];
      std::memcpy(rows, plane, sizeof rows);
      transpose(rows);
      std::memcpy(plane, rows, sizeof rows);
    }
    return true;
  }

  // Rows of the tile from `begin` on, whose digits are the first of digits_.
  void multiply_part(const WeightTile& part, std::int64_t begin) const {
    Ahead next = behind(part, steps_ * groups_of(part.count) * (rows_ + 3) / 4);
    for (std::int64_t first = 0; first < steps_; first += kPieceSteps) {
      for (std::int64_t g = 0; g < groups_of(rows_); ++g) multiply_piece(part, begin, first, g, next);
    }
  }

  void multiply_piece(const WeightTile& part, std::int64_t begin, std::int64_t first, std::int64_t group,
                      Ahead& next) const {
    const std::int64_t steps = std::min(kPieceSteps, steps_ - first);
    const std::int64_t piece = first / kPieceSteps;
    const char* hidden = hidden_ + group * steps_ * kHiddenStep;
    const std::int64_t rows = std::min(kSide, rows_ - group * kSide);
    Levels* levels = levels_ + group * kSide;
    for (std::int64_t j = 0; j < part.count; j += kSide) {
      const char* weight = digits_ + j / kSide * steps_ * kWeightStep;
      const char* w = weight + first * kWeightStep;
      const char* h = hidden + first * kHiddenStep;
      std::int64_t r = 0;
      for (; r + 4 <= rows; r += 4) vnni::multiply<4>(w, h + r * 4, steps, levels + r, begin + j, next);
      multiply_rest<3>(w, h + r * 4, rows - r, steps, levels + r, begin + j, next);
      for (r = 0; r < rows; ++r) {
        multiply_low(hidden_row(group * kSide + r), piece, weight, levels[r], begin + j);
      }
    }
    for (std::int64_t j = begin; j < begin + part.count; ++j) {
      multiply_low(weight_row(j), piece, hidden, across_[group * kTile + j]);
    }
  }

  void add_across(std::int64_t count) const {
    for (std::int64_t g = 0; g < groups_of(rows_); ++g) {
      for (std::int64_t j = 0; j < count; j += kSide) {
        for (std::int64_t level = 0; level < 3; ++level) {
          __m512i sums[kSide];
          for (std::int64_t i = 0; i < kSide; ++i) sums[i] = load(across_[g * kTile + j + i][level]);
          transpose(sums);
          for (std::int64_t i = 0; i < std::min(kSide, rows_ - g * kSide); ++i) {
            std::int32_t* to = levels_[g * kSide + i][level] + j;
            store(to, _mm512_add_epi32(load(to), sums[i]));
          }
        }
      }
    }
  }

  const char* hidden_;
  std::int64_t rows_;
  std::int64_t size_;
  std::int64_t steps_;
  Levels* levels_;
  Across* across_;
  char* digits_;  // of the weight
  char* packed_;
};

}  // namespace
}  // namespace vnni

const Target& avx512_vnni_target(const Entry& entry) {
  return only<F64Target<DigitSums<vnni::Products>>, k_avx512_vnni_shape>(entry, avx512_loops());
}

}  // namespace isologit::detail::kernels
