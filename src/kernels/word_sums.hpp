// Sums of products from integers of 16 bits ("words"), for AVX2: VPMADDWD multiplies sixteen pairs where a multiply-add
// of doubles takes four. Used like Panel by kernels/f64_tile.hpp, whose sums it falls back to.
//
// Why it is right. A row has a unit U, a power of two, and an element x is x' U + rest, x' = trunc(x / U) of at most 15
// bits, or 0. The few that have a rest are listed (kernels/words.hpp). So
//
//   sum h w = U_h U_w sum h' w' + U_w sum rest_h w' + sum rest_w h
//
// the two latter over the lists, in f64: every product is exact there, a term passes through at most as many roundings
// as the two lists are long and four more, and since truncation parts |x| into |x' U| + |rest| the magnitudes of all
// terms add up to sum |h| |w|. So the certificate of kernels/f64_tile.hpp holds with that number as D, and all terms
// are multiples of the rows' lowest set bits, as it wants them. (Where U is below the lowest set bit there is no rest.)
//
// The first sum is exact. Of four pairs of elements VPMADDWD's sums t are added up in int32: U_h is such that the |h'|
// of these eight add up to at most 2^16, and |w'| < 2^15. Of the t of a whole row two sums are kept in int32,
//
//   high = sum (t >> 16)   and   low = sum t, modulo 2^32,
//
// and sum t = 2^16 high + sum (t & 0xFFFF), where the latter is what low and 2^16 high differ by modulo 2^32, since it
// is below 2^31 for kMostSize / 8 of them.
//
// Floor: sixteen pairs are one VPMADDWD, one addition and, once in four, two more and a shift: 40 instructions for 256
// multiply-adds where doubles take 64. On three ports 13.3 cycles and 32, by llvm-mca 14 with the loads 17.6 (Skylake,
// Ice Lake), 16.0 (Zen 3), 23 (Haswell, Zen 2: one such multiplier). Predicted for a Xeon's thread at 3.6
// GHz, ns for an element of the weight: sums 0.23 of 16 rows and 0.92 of 64; words 0.10 (25 instructions for 16
// elements) and turning them round 0.05; rests some 45 places on either side and 4 cycles each for eight or sixteen
// sums, 0.06 and 0.2. In all 0.5 and 1.3, doubles 0.56 and 2.2 at best. Measured beside others, CPU time: 0.70 and 1.8
// to 1.9, doubles 0.80 and 2.8; 120 rows 3.4 and 4.9; H = 1024 16 rows 0.70 and 0.79, 64 rows 1.8 and 2.6. Of 64 rows
// sums take half (1.1, a cycle each where 0.83 were predicted), rests a fifth, words a tenth. Equal at ten rows.
// Channels of hidden that tower by 40 or 1000: the same. Four elements a weight row that tower by 10: 16 rows 0.96 and
// 0.89, 64 rows 2.7 and 3.0, since their units are looked for.
//
// What took away the most: the words of 1024 elements at a time, so that they are written to L1 (0.2 of 16 rows); the
// sums in a function of their own, in an order that GCC 12 is told (inlined it kept six of eight in memory); rests
// written without asking, since a branch at each sixteen elements is mispredicted at every seventh.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/f64_tile.hpp"
#include "kernels/window.hpp"
#include "kernels/words.hpp"

namespace isologit::detail::kernels {
namespace {

struct WordSums : Panel<Doubles> {
  // Fewer hidden rows, and shorter ones, are for Panel: 16 of 512 took 1.1 times as long, of 768 0.93.
  static constexpr std::int64_t kFewest = 10;
  static constexpr std::int64_t kLeastSize = 768;
  static constexpr std::int64_t kMostSize = 1 << 18;
  static constexpr std::int64_t kSide = 8;     // weight rows side by side
  static constexpr std::int64_t kHidden = 4;   // hidden rows side by side
  static constexpr std::int64_t kPart = 1024;  // elements of a panel multiplied together: 16 KB, stay in L1

  static std::int64_t padded(std::int64_t size) { return (size + kWordStep - 1) / kWordStep * kWordStep; }
  static std::int64_t groups_of(std::int64_t rows) { return (rows + kHidden - 1) / kHidden; }
  static std::int64_t lanes_of(std::int64_t rows) { return (rows + kSide - 1) / kSide * kSide; }
  static bool suits(std::int64_t rows, std::int64_t size) {
    return rows >= kFewest && size >= kLeastSize && size <= kMostSize;
  }

  // A prepared block: that of Panel; words[group of 4 rows][pair of elements][row]; elements[element][row] as floats;
  // WordRow of each row.
  struct Layout {
    Layout(std::int64_t rows, std::int64_t size)
        : words(Panel::block_size(rows, size)),
          floats(words + groups_of(rows) * kHidden * padded(size) / 4),
          rows_at(floats + lanes_of(rows) * size / 2),
          row_size((WordRow::bytes(size) + 7) / 8),
          end(rows_at + rows * row_size) {}
    std::int64_t words, floats, rows_at, row_size, end;  // in doubles
  };

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) {
    return suits(rows, size) ? Layout(rows, size).end : Panel::block_size(rows, size);
  }

  // Sums of rest_w h of a panel; its words[pair][row]; high and low of all rows; WordRow of each of its rows.
  struct Scratch {
    Scratch(double* at, std::int64_t rows, std::int64_t size)
        : rests(at),
          words(reinterpret_cast<std::int32_t*>(rests + lanes_of(rows) * kSide)),
          high(words + padded(size) / 2 * kSide),
          low(high + groups_of(rows) * kHidden * kSide),
          weight(rests + first_row(rows, size)),
          row_size((WordRow::bytes(size) + 7) / 8) {}
    static std::int64_t first_row(std::int64_t rows, std::int64_t size) {
      return kSide * (lanes_of(rows) + padded(size) / 4 + groups_of(rows) * kHidden);
    }
    static std::int64_t end(std::int64_t rows, std::int64_t size) {
      return first_row(rows, size) + kSide * ((WordRow::bytes(size) + 7) / 8);
    }
    WordRow& row(std::int64_t i) const { return *reinterpret_cast<WordRow*>(weight + i * row_size); }

    double* rests;
    std::int32_t* words;
    std::int32_t* high;
    std::int32_t* low;
    double* weight;
    std::int64_t row_size;
  };

  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    const std::int64_t of_panel = Panel::scratch_size(rows, size);
    return suits(rows, size) ? std::max(of_panel, Scratch::end(rows, size)) : of_panel;
  }

  static const WordRow& hidden_row(const double* block, const Layout& at, std::int64_t r) {
    return *reinterpret_cast<const WordRow*>(block + at.rows_at + r * at.row_size);
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      double* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    if (!suits(rows, size)) return;
    const Layout at(rows, size);
    auto& own = *reinterpret_cast<WordRow*>(block + at.rows_at + index * at.row_size);
    auto* floats = reinterpret_cast<float*>(block + at.floats);
    for (std::int64_t k = 0; k < size; ++k) floats[k * lanes_of(rows) + index] = exact::load_element(row, dtype, k);
    auto* words = reinterpret_cast<std::int32_t*>(block + at.words);
    if (index == rows - 1) clear_rest(words, floats, rows, size);
    own.fits =
        words_of_hidden(row, dtype, size, own, words + index / kHidden * padded(size) / 2 * kHidden + index % kHidden);
  }

  static std::int64_t sums(const double* block, std::int64_t rows, const WeightTile& tile, double* sums,
                           double* scratch, Magnitudes& see) {
    const std::int64_t size = tile.weight->cols;
    if (suits(rows, size) && tile.weight->dtype == DType::bf16) {
      const Layout at(rows, size);
      bool fits = true;
      std::int64_t most_hidden = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        const WordRow& row = hidden_row(block, at, r);
        fits = fits && row.fits;
        if (fits) most_hidden = std::max(most_hidden, row.count);
      }
      std::int64_t most_weight = 0;
      for (std::int64_t j = 0; fits && j < tile.count; j += kSide) {
        fits = panel_sums(block, at, rows, tile, j, sums + j, Scratch(scratch, rows, size), see, most_weight);
      }
      if (fits) return most_hidden + most_weight + 4;
    }
    return Panel::sums(block, rows, tile, sums, scratch, see);
  }

  // What `multiply` does to registers, in its proportions.
  static std::int64_t multiply_adds(std::int64_t steps) {
    const auto unknown = [](__m256i& factor) { asm volatile("" : "+x"(factor)); };  // so that it is multiplied anew
    __m256i factor = _mm256_set1_epi16(1);
    __m256i sum[kHidden] = {};
    __m256i of_high[kHidden] = {};
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < kHidden; ++r) {
        unknown(factor);
        __m256i t = _mm256_madd_epi16(factor, factor);
#pragma GCC unroll 4
        for (std::int64_t i = 1; i < 4; ++i) {
          unknown(factor);
          t = _mm256_add_epi32(t, _mm256_madd_epi16(factor, factor));
        }
        sum[r] = _mm256_add_epi32(sum[r], t);
        of_high[r] = _mm256_add_epi32(of_high[r], _mm256_srai_epi32(t, 16));
      }
    }
    for (std::int64_t r = 0; r < kHidden; ++r) factor = _mm256_add_epi32(factor, _mm256_add_epi32(sum[r], of_high[r]));
    unknown(factor);  // so that the sums are needed
    return steps * kHidden * 4 * kWordStep;
  }

 private:
  // Words and elements of rows that are not there, next to the last ones.
  static void clear_rest(std::int32_t* words, float* floats, std::int64_t rows, std::int64_t size) {
    const std::int64_t pairs = padded(size) / 2;
    for (std::int64_t r = rows; r < groups_of(rows) * kHidden; ++r) {
      for (std::int64_t p = 0; p < pairs; ++p) words[(r / kHidden * pairs + p) * kHidden + r % kHidden] = 0;
    }
    for (std::int64_t r = rows; r < lanes_of(rows); ++r) {
      for (std::int64_t k = 0; k < size; ++k) floats[k * lanes_of(rows) + r] = 0;
    }
  }

  // Into every fourth of `to`.
  static bool words_of_hidden(const void* row, DType dtype, std::int64_t size, WordRow& own, std::int32_t* to) {
    const double greatest = greatest_of(row, dtype, size);
    const int first = best_unit(row, dtype, size, 0, kWordBits, 1);
    // With two bits less eight words cannot be more than 2^16.
    for (int spare = 0; spare <= 2; ++spare) {
      if (!begin_words(own, first + spare, greatest)) return false;
      bool light = true;
      const auto store = [&](std::int64_t k, __m256i words) {
        alignas(32) std::int32_t pairs[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), words);
        std::int32_t sums[2] = {};
        for (std::int64_t p = 0; p < 8; ++p) {
          to[(k / 2 + p) * kHidden] = pairs[p];
          sums[p / 4] += std::abs(static_cast<std::int16_t>(pairs[p])) + std::abs(pairs[p] >> 16);
        }
        light = light && sums[0] <= 0x10000 && sums[1] <= 0x10000;
      };
      const bool made = exact::with_dtype(dtype, [&]<DType kDType>() {
        return make_words<kDType>(static_cast<const char*>(row), 0, size, WordRow::most(size), own, store);
      });
      if (!made) return false;
      if (light) return true;
    }
    return false;
  }

  static const char* weight_row(const WeightTile& tile, std::int64_t j) {  // past the tile's end its last one again
    return static_cast<const char*>(exact::row_data(*tile.weight, tile.first + std::min(j, tile.count - 1)));
  }

  // By the greatest element, unless too many of 64 seem to be small beside it: 2^-7 of it, seven exponents less.
  static int unit_of_weight(const char* row, std::int64_t size, double greatest) {
    const auto pattern = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(static_cast<float>(greatest)) >> 16);
    const __m256i limit = _mm256_set1_epi16(static_cast<std::int16_t>(std::max(pattern - (7 << 7), 0)));
    int small = 0;
    for (std::int64_t i = 0; i < 4; ++i) {
      const auto* some = reinterpret_cast<const __m256i*>(row + i * (size / 4) * 2);
      const __m256i magnitudes = _mm256_and_si256(_mm256_loadu_si256(some), _mm256_set1_epi16(0x7FFF));
      const __m256i below = _mm256_cmpgt_epi16(limit, magnitudes);
      small += std::popcount(static_cast<unsigned>(_mm256_movemask_epi8(below))) / 2;
    }
    if (small <= 5) return greatest_unit(greatest);
    return best_unit(row, DType::bf16, size, 0, kWordBits, size / 128);
  }

  // Begins the words of weight rows j to j + 7. False where one cannot have them.
  static bool units_of_weight(const WeightTile& tile, std::int64_t j, const Scratch& own, Magnitudes& see) {
    for (std::int64_t i = 0; i < kSide; ++i) {
      const std::int64_t row = std::min(j + i, tile.count - 1);
      if (j + i == row) see.operator()<DType::bf16>(row, weight_row(tile, row), tile.weight->cols);
      const double greatest = see.rows[row].of(DType::bf16);
      if (!begin_words(own.row(i), unit_of_weight(weight_row(tile, row), tile.weight->cols, greatest), greatest)) {
        return false;
      }
    }
    return true;
  }

  // Their words of elements [begin, end) side by side.
  static bool words_of_weight(const WeightTile& tile, std::int64_t j, std::int64_t begin, std::int64_t end,
                              const Scratch& own) {
    for (std::int64_t i = 0; i < kSide; ++i) {
      // As rows of eight pairs, to be turned: [sixteen elements][row][pair].
      std::int32_t* to = own.words + i * kSide;
      const bool made =
          make_words<DType::bf16>(weight_row(tile, j + i), begin, end, WordRow::most(tile.weight->cols), own.row(i),
                                  [&](std::int64_t k, __m256i words) {
                                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k / 2 * kSide), words);
                                  });
      if (!made) return false;
    }
    for (std::int64_t p = begin / 2; p < padded(end) / 2; p += 8) transpose(own.words + p * kSide);
    return true;
  }

  // Eight by eight.
  static void transpose(std::int32_t* at) {
    __m256 v[8];
    for (std::int64_t i = 0; i < 8; ++i) v[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(at + i * 8));
    __m256d twos[8];
    for (std::int64_t i = 0; i < 8; i += 2) {
      twos[i] = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));
      twos[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));
    }
    __m256d fours[8];
    for (std::int64_t i = 0; i < 8; i += 4) {
      for (std::int64_t p = 0; p < 2; ++p) {
        fours[i + 2 * p] = _mm256_unpacklo_pd(twos[i + p], twos[i + 2 + p]);
        fours[i + 2 * p + 1] = _mm256_unpackhi_pd(twos[i + p], twos[i + 2 + p]);
      }
    }
    for (std::int64_t i = 0; i < 4; ++i) {
      _mm256_storeu_pd(reinterpret_cast<double*>(at + i * 8), _mm256_permute2f128_pd(fours[i], fours[4 + i], 0x20));
      _mm256_storeu_pd(reinterpret_cast<double*>(at + (4 + i) * 8),
                       _mm256_permute2f128_pd(fours[i], fours[4 + i], 0x31));
    }
  }

  // What is read next, so many bytes for each four pairs that are multiplied.
  struct Next {
    std::uintptr_t at;  // may lie past the matrix: it is not read
    std::uintptr_t bytes;
  };

  // Adds to high and low, of four hidden rows, what `quads` times four pairs add. (Inlined, its sums lie in memory.)
  [[gnu::noinline]] static void multiply(const std::int32_t* weight, const std::int32_t* hidden, std::int64_t quads,
                                         std::int32_t* high, std::int32_t* low, Next next) {
    __m256i sum[kHidden];
    __m256i of_high[kHidden];
    for (std::int64_t r = 0; r < kHidden; ++r) {
      sum[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + r * kSide));
      of_high[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high + r * kSide));
    }
    for (std::int64_t q = 0; q < quads; ++q, weight += 4 * kSide, hidden += 4 * kHidden, next.at += next.bytes) {
      __builtin_prefetch(reinterpret_cast<const char*>(next.at), 0, 2);
      __m256i t[kHidden];
#pragma GCC unroll 4
      for (std::int64_t i = 0; i < 4; ++i) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight + i * kSide));
#pragma GCC unroll 4
        for (std::int64_t r = 0; r < kHidden; ++r) {
          const __m256i products = _mm256_madd_epi16(w, _mm256_set1_epi32(hidden[i * kHidden + r]));
          t[r] = i == 0 ? products : _mm256_add_epi32(t[r], products);
          asm("" : "+x"(t[r]));  // in this order, which takes the fewest registers
        }
      }
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < kHidden; ++r) {
        sum[r] = _mm256_add_epi32(sum[r], t[r]);
        of_high[r] = _mm256_add_epi32(of_high[r], _mm256_srai_epi32(t[r], 16));
      }
    }
    for (std::int64_t r = 0; r < kHidden; ++r) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + r * kSide), sum[r]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + r * kSide), of_high[r]);
    }
  }

  // All sums of eight weight rows. False where one of them has no words.
  static bool panel_sums(const double* block, const Layout& at, std::int64_t rows, const WeightTile& tile,
                         std::int64_t j, double* sums, const Scratch& own, Magnitudes& see, std::int64_t& most) {
    const std::int64_t size = tile.weight->cols;
    if (!units_of_weight(tile, j, own, see)) return false;
    const std::int64_t pairs = padded(size) / 2;
    const auto* words = reinterpret_cast<const std::int32_t*>(block + at.words);
    const std::int64_t all = groups_of(rows) * kHidden * kSide;
    std::memset(own.high, 0, static_cast<std::size_t>(2 * all) * sizeof(std::int32_t));  // and low, behind it
    const std::int64_t bytes = kSide * tile.weight->row_stride * 2;
    const std::int64_t bytes_each = bytes / (groups_of(rows) * pairs / 4);
    Next next{reinterpret_cast<std::uintptr_t>(weight_row(tile, j)) + static_cast<std::uintptr_t>(bytes),
              static_cast<std::uintptr_t>(bytes_each)};
    for (std::int64_t k = 0; k < size; k += kPart) {
      if (!words_of_weight(tile, j, k, std::min(k + kPart, size), own)) return false;
      const std::int64_t p = k / 2;
      const std::int64_t quads = std::min(kPart / 2, pairs - p) / 4;
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        multiply(own.words + p * kSide, words + (g * pairs + p) * kHidden, quads, own.high + g * kHidden * kSide,
                 own.low + g * kHidden * kSide, next);
        next.at += static_cast<std::uintptr_t>(quads * bytes_each);
      }
    }
    for (std::int64_t i = 0; i < kSide; ++i) {
      most = std::max(most, own.row(i).count);
      weight_rests(own.row(i), reinterpret_cast<const float*>(block + at.floats), lanes_of(rows),
                   own.rests + i * lanes_of(rows));
    }
    alignas(32) double units[kSide];
    for (std::int64_t i = 0; i < kSide; ++i) units[i] = own.row(i).unit;
    for (std::int64_t r = 0; r < rows; ++r) {
      finish(hidden_row(block, at, r), own, r, lanes_of(rows), units, sums + r * kTile);
    }
    return true;
  }

  // to[r] = the sum of rest_w h of hidden row r, for all.
  static void weight_rests(const WordRow& row, const float* floats, std::int64_t lanes, double* to) {
    std::int64_t r = 0;
    for (; r + 16 <= lanes; r += 16) weight_rests_of<4>(row, floats + r, lanes, to + r);
    if (r < lanes) weight_rests_of<2>(row, floats + r, lanes, to + r);
  }

  template <std::size_t kFours>
  static void weight_rests_of(const WordRow& row, const float* floats, std::int64_t lanes, double* to) {
    __m256d sum[kFours];
    for (__m256d& one : sum) one = _mm256_setzero_pd();
    for (std::int64_t i = 0; i < row.count; ++i) {
      const __m256d rest = _mm256_set1_pd(row.rests()[i].value);
      const float* h = floats + row.rests()[i].at * lanes;
      for (std::size_t four = 0; four < kFours; ++four) {
        sum[four] = _mm256_fmadd_pd(rest, _mm256_cvtps_pd(_mm_loadu_ps(h + 4 * four)), sum[four]);
      }
    }
    for (std::size_t four = 0; four < kFours; ++four) _mm256_storeu_pd(to + 4 * four, sum[four]);
  }

  // Adds rest_h w' of eight weight rows. The words of an element are the upper halves of what lies there, or two bytes
  // before (those of the first two elements have something before them).
  static void add_rest(const WordRow::Rest& rest, const std::int32_t* words, __m256d& low, __m256d& high) {
    const char* at = reinterpret_cast<const char*>(words) + rest.at / 2 * kSide * 4 + rest.at % 2 * 2 - 2;
    const __m256i integers = _mm256_srai_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), 16);
    const __m256d factor = _mm256_set1_pd(rest.value);
    low = _mm256_fmadd_pd(factor, _mm256_cvtepi32_pd(_mm256_castsi256_si128(integers)), low);
    high = _mm256_fmadd_pd(factor, _mm256_cvtepi32_pd(_mm256_extracti128_si256(integers, 1)), high);
  }

  // The sums of hidden row r and the panel's eight weight rows.
  static void finish(const WordRow& hidden, const Scratch& own, std::int64_t r, std::int64_t lanes,
                     const double (&units)[kSide], double* sums) {
    __m256d rests[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    __m256d more[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};  // so that none waits long for itself
    std::int64_t i = 0;
    for (; i + 2 <= hidden.count; i += 2) {
      add_rest(hidden.rests()[i], own.words, rests[0], rests[1]);
      add_rest(hidden.rests()[i + 1], own.words, more[0], more[1]);
    }
    if (i < hidden.count) add_rest(hidden.rests()[i], own.words, rests[0], rests[1]);
    rests[0] = _mm256_add_pd(rests[0], more[0]);
    rests[1] = _mm256_add_pd(rests[1], more[1]);
    const __m256d unit = _mm256_set1_pd(hidden.unit);
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t from = r * kSide + half * 4;
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(own.high + from));
      const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(own.low + from));
      const __m128i low = _mm_sub_epi32(all, _mm_slli_epi32(high, 16));
      const __m256d total = _mm256_fmadd_pd(_mm256_cvtepi32_pd(high), _mm256_set1_pd(0x1p16), _mm256_cvtepi32_pd(low));
      const double* of_weight = own.rests + half * 4 * lanes + r;
      const __m256d others = _mm256_setr_pd(of_weight[0], of_weight[lanes], of_weight[2 * lanes], of_weight[3 * lanes]);
      const __m256d both = _mm256_fmadd_pd(total, unit, rests[half]);
      _mm256_storeu_pd(sums + half * 4, _mm256_fmadd_pd(both, _mm256_load_pd(units + half * 4), others));
    }
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
