// AVX512-VNNI: exact integer products of words (kernels/digit_sums.hpp), sixteen weight rows in the lanes of a register
// and two of these by four hidden rows.
//
// Why it is right. An element is an integer of 24 bits in units of its row's: x = 2^8 x' + x0, x' in [-2^15, 2^15), x0
// in [0, 255]. Of the elements of a normal row of bf16 one in a hundred has an x0 that is not 0. So
//
//   sum h w = 2^16 sum h' w' + 2^8 (sum h0 w' + sum w0 h') + sum w0 h0
//
// and but for the first these are over the few elements that have an h0 or a w0: the pairs of a row that have are
// listed. VPDPWSSD adds the products of a pair of words to an int32. Of four pairs, eight elements, it holds the sum t,
// since the unit of a hidden row is such that the |h'| of these eight add up to less than 2^16, and |w'| <= 2^15. Of
// the t of a whole row two sums are kept (add_in_halves), high = sum (t >> 16) and low = sum t modulo 2^32: sum t =
// 2^16 high
// + sum (t & 0xFFFF), where the latter is what low and 2^16 high differ by modulo 2^32. Sums over a list are kept the
// same way, each of a piece of the row, whose list is short enough for an int32 to hold it. |total| is below 2^59.
//
// Floor: four of these products, three additions and a shift make 128 multiply-adds. On a Zen 4, which takes an
// instruction of 512 bits in two halves and multiplies on two of four ports, that is 4 cycles, 32 multiply-adds a cycle
// (four VPDPBUSD of digits, which these products were before: 16; f64: 8). On an Ice Lake 3.5 cycles by the ports, 4.5
// by llvm-mca 14: 28 a cycle, as of digits.
//
// Measured on a Zen 4, both processors, in turns, least ms of all logits of V = 151936, H = 4096 (H = 1024 in
// brackets):
//
//   rows              10         14         16         64        256
//   words            128 (37)   144 (41)   148 (42)   351 (100)  1160
//   digits before    179        196 (52)   201 (56)   528 (142)  1860
//   avx512, f64      169 (45)   212 (57)   231 (60)        (198)
//
// Of 256 rows two thirds are this product, at 0.97 of the rate that `multiply_adds` reaches, a fifth the lists (two in
// three of that the weight's), a twentieth to make the words. Of 16 rows a third each: the product; to make the words
// (45 cycles for 64 elements, some 75 instructions of two halves); to turn them and the lists. What took away most:
// rows turned in registers instead of copied to the stack and back (a tenth of 16 rows); lists of 1024 elements at a
// time instead of 256 (a tenth of 256 rows), since the end of each is mispredicted. Tried: sums kept in their registers
// by an asm that says so, for the 16 moves that GCC 12 makes instead, which cost nothing: 1.2 times as long; constants
// of packing kept in registers: 1.05.
//
// Processors with AVX-VNNI and no AVX-512 could do the same, at half the width; but rows are taken apart by AVX-512
// (kernels/digits.hpp), so that would be a kernel of its own, which there is not.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/digit_sums.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/registry.hpp"
#include "kernels/word_lists.hpp"

namespace isologit::detail::kernels {
namespace vnni {
namespace {

constexpr std::int64_t kTogether = 4;  // pairs whose products are added up before they are taken in halves
constexpr std::int64_t kLevels = 5;
// Elements outside of a weight row: each cost 3.6 ns a hidden row on a Xeon, where integers save some 50 a logit.
constexpr std::int64_t kMostWeightOutside = 12;

constexpr std::int64_t groups_of(std::int64_t rows) { return (rows + kSide - 1) / kSide; }

inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }
inline __m512i repeat(const void* from) {
  std::int32_t word;
  std::memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}
inline __m512i multiply_add(__m512i sum, __m512i a, __m512i b) { return _mm512_dpwssd_epi32(sum, a, b); }

// Sums t in int32, in two parts: low = sum t modulo 2^32, high = sum (t >> 16). What they differ by, sum (t & 0xFFFF),
// is below 2^31 for 2^15 of them.
static_assert(kMostSize / (2 * kTogether) <= 1 << 15);
inline void add_in_halves(__m512i& low, __m512i& high, __m512i t) {
  low = _mm512_add_epi32(low, t);
  high = _mm512_add_epi32(high, _mm512_srai_epi32(t, 16));
}
inline void add_in_halves(std::int32_t* low, std::int32_t* high, __m512i t) {
  __m512i lows = load(low);
  __m512i highs = load(high);
  add_in_halves(lows, highs, t);
  store(low, lows);
  store(high, highs);
}
inline std::int64_t whole(std::int32_t low, std::int32_t high) {
  const std::uint32_t rest = static_cast<std::uint32_t>(low) - (static_cast<std::uint32_t>(high) << 16);
  return std::int64_t{high} * 0x10000 + static_cast<std::int64_t>(rest);
}
inline __m512i whole(const std::int32_t* low, const std::int32_t* high) {
  const __m256i highs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high));
  const __m256i lows = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low));
  const __m256i rest = _mm256_sub_epi32(lows, _mm256_slli_epi32(highs, 16));
  return _mm512_add_epi64(_mm512_slli_epi64(_mm512_cvtepi32_epi64(highs), 16), _mm512_cvtepu32_epi64(rest));
}

// Sums of a hidden row and the 64 rows of a tile: [level][weight row]. Halves of the sum of h' w'; of h0 w' and w0 h';
// the sum of w0 h0.
using Levels = std::int32_t[kLevels][kTile];

// Products of words, of kW times sixteen weight rows and kH hidden rows side by side.
template <std::size_t kW, std::size_t kH>
[[gnu::noinline]] void multiply(const char* weight, std::int64_t group_bytes, const char* hidden, std::int64_t steps,
                                Levels* levels, std::int64_t column, Ahead& next) {
  __m512i low[kW][kH];
  __m512i high[kW][kH];
  for (std::size_t r = 0; r < kH; ++r) {
    for (std::size_t g = 0; g < kW; ++g) {
      const std::int64_t at = column + static_cast<std::int64_t>(g) * kSide;
      low[g][r] = load(levels[r][0] + at);
      high[g][r] = load(levels[r][1] + at);
    }
  }
  next.fetch(steps);
  const char* end = weight + steps * kStepBytes;
  do {
    __m512i t[kW][kH];
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kTogether; ++i) {
      __m512i w[kW];
      for (std::size_t g = 0; g < kW; ++g) w[g] = load(weight + static_cast<std::int64_t>(g) * group_bytes + i * kPair);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kH; ++r) {
        const __m512i h = repeat(hidden + i * kPair + 4 * r);
        for (std::size_t g = 0; g < kW; ++g) {
          t[g][r] = i == 0 ? _mm512_madd_epi16(w[g], h) : multiply_add(t[g][r], w[g], h);
        }
      }
    }
    for (std::size_t r = 0; r < kH; ++r) {
      for (std::size_t g = 0; g < kW; ++g) add_in_halves(low[g][r], high[g][r], t[g][r]);
    }
    weight += kTogether * kPair;
    hidden += kTogether * kPair;
  } while (weight < end);
  for (std::size_t r = 0; r < kH; ++r) {
    for (std::size_t g = 0; g < kW; ++g) {
      const std::int64_t at = column + static_cast<std::int64_t>(g) * kSide;
      store(levels[r][0] + at, low[g][r]);
      store(levels[r][1] + at, high[g][r]);
    }
  }
}

// The rows that are left after the last four.
template <std::size_t kW, std::size_t kH>
void multiply_rest(const char* weight, std::int64_t group_bytes, const char* hidden, std::int64_t rows,
                   std::int64_t steps, Levels* levels, std::int64_t column, Ahead& next) {
  if constexpr (kH > 0) {
    if (rows != static_cast<std::int64_t>(kH)) {
      return multiply_rest<kW, kH - 1>(weight, group_bytes, hidden, rows, steps, levels, column, next);
    }
    multiply<kW, kH>(weight, group_bytes, hidden, steps, levels, column, next);
  }
}

// The lowest digits of a hidden row, of one piece, times w' of kW times sixteen weight rows.
template <std::size_t kW>
void multiply_low(const PackedRow& hidden, std::int64_t piece, const char* weight, std::int64_t group_bytes,
                  Levels& levels, std::int64_t column) {
  __m512i t[kW];
  for (__m512i& one : t) one = _mm512_setzero_si512();
  for (std::int64_t i = hidden.start(piece); i < hidden.start(piece + 1); ++i) {
    const __m512i digits = repeat(hidden.digits() + i);
    const char* at = weight + hidden.places()[i];
    for (std::size_t g = 0; g < kW; ++g, at += group_bytes) t[g] = multiply_add(t[g], digits, load(at));
  }
  for (std::size_t g = 0; g < kW; ++g, column += kSide) add_in_halves(levels[2] + column, levels[3] + column, t[g]);
}

// Sums of a weight row and the sixteen hidden rows of a group: halves of w0 h', and w0 h0: [level][hidden row].
using Across = std::int32_t[3][kSide];

// The lowest digits of a weight row, of one piece, times h' and h0 of sixteen hidden rows; `lowest` bytes behind the
// former the latter are.
void multiply_low(const PackedRow& weight, std::int64_t piece, const char* hidden, std::int64_t lowest, Across& sums) {
  __m512i t = _mm512_setzero_si512();
  __m512i of_lowest = load(sums[2]);
  for (std::int64_t i = weight.start(piece); i < weight.start(piece + 1); ++i) {
    const char* at = hidden + weight.places()[i];
    const __m512i digits = repeat(weight.digits() + i);
    t = multiply_add(t, digits, load(at));
    of_lowest = multiply_add(of_lowest, digits, load(at + lowest));
  }
  add_in_halves(sums[0], sums[1], t);
  store(sums[2], of_lowest);
}

struct Products {
  static constexpr std::int64_t kBlockRows = 256;
  static constexpr std::int64_t kMostSize = vnni::kMostSize;

  // A block's part: words[group of 16 rows][pair of elements][row][element], of x'; the same of x0; PackedRow of each
  // row.
  static std::int64_t hidden_size(std::int64_t rows, std::int64_t size) {
    return (2 * words_bytes(rows, size) + rows * PackedRow::bytes(size)) / 8;
  }
  // Levels of the rows; Across[group][weight row]; words[group of 16 weight rows][pair][row][element]; PackedRow of
  // each row of a tile.
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return (sums_bytes(rows) + words_bytes(kTile, size) + kTile * PackedRow::bytes(size)) / 8;
  }

  static void pack_hidden(const void* row, DType dtype, std::int64_t size, double greatest, std::int64_t index,
                          std::int64_t rows, DigitRow& digit_row, double* to) {
    const std::int64_t steps = steps_of(size);
    auto* bytes = reinterpret_cast<char*>(to);
    const std::int64_t lowest_at = words_bytes(rows, size);
    char* group = bytes + index / kSide * steps * kStepBytes;
    const PackedRow own = packed_row(bytes, rows, index, size);
    Packer packer(own, size);
    const auto take = [&](std::int64_t step, const Words& words) {
      store_column(group + step * kStepBytes, index % kSide, words.word);
      store_column(group + lowest_at + step * kStepBytes, index % kSide, words.lowest);
      return packer.take(step, words.lowest) && are_light(words.word[0]) && are_light(words.word[1]);
    };
    pack_row<Words>(row, dtype, size, greatest, 1, kHeadroom, digit_row, take);
    packer.finish(pieces_of(size));
    if (index != rows - 1) return;
    const __m512i zeros[2] = {};
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) {
      for (std::int64_t step = 0; step < steps; ++step) {
        store_column(group + step * kStepBytes, column, zeros);
        store_column(group + lowest_at + step * kStepBytes, column, zeros);
      }
    }
  }

  Products(const double* hidden, std::int64_t count, std::int64_t elements, double* scratch)
      : hidden_(reinterpret_cast<const char*>(hidden)),
        rows_(count),
        size_(elements),
        steps_(steps_of(elements)),
        levels_(reinterpret_cast<Levels*>(scratch)),
        across_(reinterpret_cast<Across*>(levels_ + count)),
        words_(reinterpret_cast<char*>(scratch) + sums_bytes(count)),
        packed_(words_ + words_bytes(kTile, elements)) {}

  // False for other weights than of bf16 too: of a row of f16 one element in ten has a lowest digit, and the sums took
  // 1.06 times as long as those of f64; of f32 all have one.
  // Thirty-two rows of the tile at a time where the block's words stay in L2 for all of them.
  bool multiply(const WeightTile& tile, DigitRow* weight_rows, std::int64_t& outside, SeenRows& seen) {
    if (tile.weight->dtype != DType::bf16) return false;
    std::memset(levels_, 0, static_cast<std::size_t>(sums_bytes(rows_)));
    const std::int64_t part = words_bytes(rows_, size_) <= kMostKept ? 2 * kSide : kTile;
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
    const char* from = hidden_ + group * steps_ * kStepBytes + at / 2 * kPair;
    const auto half = [&](__m512i words) {
      return _mm512_srai_epi32(at % 2 == 0 ? _mm512_slli_epi32(words, 16) : words, 16);
    };
    const __m512i high = half(load(from));
    return _mm512_or_si512(_mm512_slli_epi32(high, 8), half(load(from + words_bytes(rows_, size_))));
  }

  std::int64_t total(std::int64_t r, std::int64_t j) const {
    const Levels& of = levels_[r];
    return whole(of[0][j], of[1][j]) * 0x10000 + whole(of[2][j], of[3][j]) * 0x100 + of[4][j];
  }

  void to_doubles(const DigitRow* hidden_rows, const DigitRow* weight_rows, std::int64_t count, double* sums) const {
    alignas(64) double units[kTile] = {};
    for (std::int64_t j = 0; j < count; ++j) units[j] = weight_rows[j].unit;
    for (std::int64_t r = 0; r < rows_; ++r) {
      const Levels& of = levels_[r];
      const __m512d unit = _mm512_set1_pd(hidden_rows[r].unit);
      for (std::int64_t j = 0; j < count; j += 8) {
        const __m512i lowest = _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(of[4] + j)));
        const __m512i middle = _mm512_slli_epi64(whole(of[2] + j, of[3] + j), 8);
        const __m512i high = _mm512_slli_epi64(whole(of[0] + j, of[1] + j), 16);
        const __m512i sum = _mm512_add_epi64(high, _mm512_add_epi64(middle, lowest));
        const __m512d both = _mm512_mul_pd(unit, _mm512_loadu_pd(units + j));
        _mm512_storeu_pd(sums + r * kTile + j, _mm512_mul_pd(_mm512_cvtepi64_pd(sum), both));
      }
    }
  }

  // What `multiply` does to registers, in its proportions.
  static std::int64_t multiply_adds(std::int64_t steps) {
    constexpr std::size_t kSums = 8;
    __m512i low[kSums] = {};
    __m512i high[kSums] = {};
    __m512i factor = _mm512_set1_epi16(1);
    const auto unknown = [](__m512i& x) { asm volatile("" : "+m"(x)); };  // so that it is multiplied anew
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
      for (std::size_t i = 0; i < kSums; ++i) {
        unknown(factor);
        __m512i t = _mm512_madd_epi16(factor, factor);
        for (std::int64_t pair = 1; pair < kTogether; ++pair) t = multiply_add(t, factor, factor);
        add_in_halves(low[i], high[i], t);
      }
    }
    for (std::size_t i = 0; i < kSums; ++i) factor = _mm512_add_epi32(factor, _mm512_add_epi32(low[i], high[i]));
    unknown(factor);  // so that the sums are needed
    return steps * static_cast<std::int64_t>(kSums) * kTogether * kStep / 2;
  }

 private:
  static constexpr std::int64_t kMostKept = 1 << 20;  // bytes of words of a block, half of an L2
  // With two bits less eight words cannot be more than 2^16.
  static constexpr int kHeadroom = 2;

  static std::int64_t pieces_of(std::int64_t size) { return (steps_of(size) + kPieceSteps - 1) / kPieceSteps; }
  static std::int64_t words_bytes(std::int64_t rows, std::int64_t size) {
    return groups_of(rows) * steps_of(size) * kStepBytes;
  }
  static std::int64_t sums_bytes(std::int64_t rows) {
    return static_cast<std::int64_t>(sizeof(Levels)) * rows +
           static_cast<std::int64_t>(sizeof(Across)) * groups_of(rows) * kTile;
  }

  static PackedRow packed_row(const char* hidden, std::int64_t rows, std::int64_t r, std::int64_t size) {
    return {const_cast<char*>(hidden) + 2 * words_bytes(rows, size) + r * PackedRow::bytes(size), size};
  }
  PackedRow hidden_row(std::int64_t r) const { return packed_row(hidden_, rows_, r, size_); }
  PackedRow weight_row(std::int64_t j) const { return {packed_ + j * PackedRow::bytes(size_), size_}; }

  // Whether the magnitudes of words that are multiplied together add up to less than 2^16.
  static bool are_light(__m512i words) {
    std::int16_t all[kStep / 2];
    std::memcpy(all, &words, sizeof all);
    for (std::int64_t first = 0; first < kStep / 2; first += 2 * kTogether) {
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < 2 * kTogether; ++i) sum += std::abs(std::int32_t{all[first + i]});
      if (sum >= 0x10000) return false;
    }
    return true;
  }

  static void store_column(char* step, std::int64_t column, const __m512i (&words)[2]) {
    for (std::int64_t half = 0; half < 2; ++half) {
      std::uint32_t pairs[kHalf];
      std::memcpy(pairs, &words[half], sizeof pairs);
      for (std::int64_t k = 0; k < kHalf; ++k) {
        std::memcpy(step + (half * kHalf + k) * kPair + column * 4, &pairs[k], 4);
      }
    }
  }

  // Rows [begin, end) of the tile, at most sixteen, as rows [to, to + 16) of the words. False when one has none.
  bool pack_group(const WeightTile& tile, std::int64_t begin, std::int64_t end, std::int64_t to, DigitRow* weight_rows,
                  std::int64_t& outside, SeenRows& seen) const {
    char* group = words_ + to / kSide * steps_ * kStepBytes;
    const auto pack = [&](std::int64_t j, const char* from, double greatest) {
      Packer packer(weight_row(j), size_);
      char* row = group + (j - begin) * 4 * kHalf;  // to be turned
      pack_row<Words>(from, tile.weight->dtype, size_, greatest, 1, 0, weight_rows[j],
                      [&](std::int64_t step, const Words& words) {
                        store(row + step * kStepBytes, words.word[0]);
                        store(row + step * kStepBytes + kHalf * kPair, words.word[1]);
                        return packer.take(step, words.lowest);
                      });
      weight_rows[j].fits = weight_rows[j].fits && weight_rows[j].outside <= kMostWeightOutside;
      packer.finish(pieces_of(size_));
    };
    if (!pack_weight(tile, begin, end, weight_rows, outside, seen, pack)) return false;
    for (char* half = group; half < group + steps_ * kStepBytes; half += kHalf * kPair) {
      __m512i rows[kSide];
      for (std::int64_t i = 0; i < kSide; ++i) rows[i] = load(half + i * kPair);
      transpose(rows);
      for (std::int64_t i = 0; i < kSide; ++i) store(half + i * kPair, rows[i]);
    }
    return true;
  }

  // Rows of the tile from `begin` on, whose words are the first of words_.
  void multiply_part(const WeightTile& part, std::int64_t begin) const {
    Ahead next = behind(part, steps_ * ((part.count + 2 * kSide - 1) / (2 * kSide)) * ((rows_ + 3) / 4));
    for (std::int64_t first = 0; first < steps_; first += kPieceSteps) {
      for (std::int64_t g = 0; g < groups_of(rows_); ++g) multiply_piece(part, begin, first, g, next);
    }
  }

  void multiply_piece(const WeightTile& part, std::int64_t begin, std::int64_t first, std::int64_t group,
                      Ahead& next) const {
    const std::int64_t group_bytes = steps_ * kStepBytes;
    const std::int64_t piece = first / kPieceSteps;
    const char* hidden = hidden_ + group * group_bytes;
    const std::int64_t rows = std::min(kSide, rows_ - group * kSide);
    for (std::int64_t j = 0; j < part.count; j += 2 * kSide) {
      const char* weight = words_ + j / kSide * group_bytes;
      if (part.count - j > kSide) {
        multiply_words<2>(first, weight, hidden, rows, group, begin + j, next);
      } else {
        multiply_words<1>(first, weight, hidden, rows, group, begin + j, next);
      }
    }
    for (std::int64_t j = begin; j < begin + part.count; ++j) {
      multiply_low(weight_row(j), piece, hidden, words_bytes(rows_, size_), across_[group * kTile + j]);
    }
  }

  template <std::size_t kW>
  void multiply_words(std::int64_t first, const char* weight, const char* hidden, std::int64_t rows, std::int64_t group,
                      std::int64_t column, Ahead& next) const {
    const std::int64_t steps = std::min(kPieceSteps, steps_ - first);
    const std::int64_t group_bytes = steps_ * kStepBytes;
    const char* w = weight + first * kStepBytes;
    const char* h = hidden + first * kStepBytes;
    Levels* levels = levels_ + group * kSide;
    std::int64_t r = 0;
    for (; r + 4 <= rows; r += 4) vnni::multiply<kW, 4>(w, group_bytes, h + r * 4, steps, levels + r, column, next);
    multiply_rest<kW, 3>(w, group_bytes, h + r * 4, rows - r, steps, levels + r, column, next);
    for (r = 0; r < rows; ++r) {
      multiply_low<kW>(hidden_row(group * kSide + r), first / kPieceSteps, weight, group_bytes, levels[r], column);
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
            std::int32_t* to = levels_[g * kSide + i][2 + level] + j;
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
  char* words_;  // of the weight
  char* packed_;
};

}  // namespace
}  // namespace vnni

const Target& avx512_vnni_target(const Entry& entry) {
  return only<F64Target<DigitSums<vnni::Products>>, k_avx512_vnni_shape>(entry, avx512_loops());
}

}  // namespace isologit::detail::kernels
