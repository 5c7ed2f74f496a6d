// AMX: exact integer products of digits (kernels/digit_sums.hpp), sixteen weight rows by sixteen hidden rows at a time.
//
// Of each pair of digits the products are added up in int32 (kSteps * 64 products, three pairs to a sum, below 2^27),
// those in int64 while tiles multiply the next ones. (Blocks of few rows, which are bound by reading the weight, are
// left to avx512.)
//
// Floor: nine products of digits for one of elements, on tiles of 16 x 16 x 64, sixteen cycles each: 16384
// multiply-adds in 144 cycles. Loads for these nine: four tiles of the weight, four of hidden, 8 x 8 cycles, beside the
// products. The weight is taken apart once for every block of hidden rows, about 0.3 cycles an element.
//
// Predicted that a step's loads hide behind its products where the weight's digits of kSteps steps stay in L1 and those
// of hidden come from L2: 24 KB on either side. Measured in loops of a step alone, ns: products 49, with loads from L1
// 59, with hidden's from L2 62, with both from L2 69, with hidden's from L3 125 (4096 elements of 256 rows are 3 MB of
// digits). 4, 5, 6 and 8 steps took the same within 5 %, and so did fetching hidden's next digits into L2 ahead. What
// gained: elements outside, which were loads of rows of doubles, a cache miss each, and a fifth of the time of 256 rows
// (digit_sums.hpp); the next weight rows fetched evenly through taking apart and multiplying, so that memory works all
// the time; sixteen steps became eight. Before and after, CPU time of tiles on one processor of a busy Xeon with AMX,
// ns a logit: H=4096 16 rows 106 and 93, 64 rows 52 and 40, 256 rows 46 and 32; H=1024 32 and 26, 15 and 12, 9.8
// and 8.0. Of 256 rows 0.6 are multiply_part (in which a third waits for L3), 0.12 taking the weight apart.
//
// Block and scratch in huge pages (base/aligned.cpp) took 0.95 of that. Tried after it, in turns, medians of the least
// CPU ns a logit in six or seven runs, 256 rows of H=4096: as it is 30.1; four steps 32.8, two 38; hidden's next piece
// fetched evenly into L2, each line 31.8 (four steps), two lines of each sixteen or eight, for the processor's own
// prefetcher to fetch the others, 30.8 (eight steps), 30.5 and 29.7 (four); the weight's digits of one piece at a
// time, 98 KB where those of all pieces are 786, rows looked through and later taken apart, 35 beside 31 of that hour.
//
// Logits that the certificate leaves open lie on midpoints, one in some hundred. To look for the lowest bit of their
// weight rows was a tenth of the time of 16 rows at H=1024; added up from the digits' totals they take none: medians of
// seven runs in turn beside others, CPU ns for an element of the weight, 16 rows 0.387 and 0.354 (H=1024), 0.328 and
// 0.324 (H=4096), 256 rows 1.92 and 1.85, 1.93 and 1.84. Tried there: asking sixteen logits at a time whether one is
// open, greatest magnitudes by 64 bytes in place of 32, the constants of short_digits held in registers, the weight
// fetched two parts ahead or by one prefetch alone: all the same. What is left of 16 rows at H=1024 (from L2; from
// memory 0.08 more): digits 0.11, products and their loads 0.08, magnitudes 0.02, the rest with its rounding 0.06.
//
// Why not four products, the lowest digits apart as avx512_vnni.cpp has them: five products that are saved are 20
// cycles a logit of 4096 elements (64 steps of 80 for 256 logits). What takes their place are some 45 places on either
// side, 5 and 9 instructions for sixteen logits, 20 cycles by count and 50 measured there. Six products (the lowest
// digit of the weight alone apart) save 12 and cost 13. A step of 64 elements of sixteen rows without any lowest digit
// is rare (0.99^1024), and digits of bf16 in bf16 tiles (lowest digit times element: two products for three) save one
// of nine.
//
// Digits and the f64 sums of avx512, ns for an element of the weight, in the same hour, two runs: H=4096 4 rows 0.31 to
// 0.37 and 0.26, 6 rows 0.31 to 0.36 and 0.33, 8 rows 0.33 to 0.37 and 0.41; H=1024 4 rows 0.33 to 0.36 and 0.29 to
// 0.33, 6 rows 0.33 to 0.36 and 0.34 to 0.40.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/amx_tiles.hpp"
#include "kernels/digit_sums.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kStepBytes = kDigits * kTileBytes;
constexpr std::int64_t kSteps = 8;
constexpr std::int64_t kLevels = 2 * kDigits - 1;  // sums of products by what they count, 2^0, 2^8, ... 2^32
// What is done to a step's digits, about 25 cycles each: taking one row's apart, and multiplying.
constexpr std::int64_t kPackWork = 1;
constexpr std::int64_t kMultiplyWork = 6;

using Levels = std::int32_t[kLevels][kSide][kSide];

// The nine products of one step. Tiles 0 to 4 are the levels, 5 and 6 hold weight digits, 7 hidden ones. A level takes
// part in a product again only after two others at the least, so that none waits long for itself.
inline void multiply_step(const char* weight, const char* hidden) {
  _tile_loadd(5, weight + 2 * kTileBytes, 64);
  _tile_loadd(7, hidden, 64);
  _tile_dpbsud(2, 5, 7);
  _tile_loadd(7, hidden + kTileBytes, 64);
  _tile_dpbsud(3, 5, 7);
  _tile_loadd(6, weight, 64);
  _tile_dpbuud(1, 6, 7);
  _tile_loadd(6, weight + kTileBytes, 64);
  _tile_dpbuud(2, 6, 7);
  _tile_loadd(7, hidden + 2 * kTileBytes, 64);
  _tile_dpbssd(4, 5, 7);
  _tile_dpbusd(3, 6, 7);
  _tile_loadd(5, weight, 64);
  _tile_dpbusd(2, 5, 7);
  _tile_loadd(7, hidden, 64);
  _tile_dpbuud(1, 6, 7);
  _tile_dpbuud(0, 5, 7);
}

inline void clear_levels() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
}

// Levels that were multiplied before, added to their totals row by row while tiles multiply the next ones.
struct Rows {
  const Levels* levels = nullptr;
  std::int64_t* totals = nullptr;
  std::int64_t done = kSide;

  void add(std::int64_t count) {
    for (const std::int64_t end = std::min(done + count, kSide); done < end; ++done) {
      for (std::int64_t h = 0; h < kSide; h += 8) {
        __m512i sum = _mm512_setzero_si512();
        for (std::int64_t level = kLevels; level-- > 0;) {
          const auto* from = reinterpret_cast<const __m256i*>((*levels)[level][done] + h);
          sum = _mm512_add_epi64(_mm512_slli_epi64(sum, 8), _mm512_cvtepi32_epi64(_mm256_load_si256(from)));
        }
        std::int64_t* to = totals + done * kSide + h;
        _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), sum));
      }
    }
  }
};

void multiply_steps(const char* weight, const char* hidden, std::int64_t steps, Levels& levels, Rows& before,
                    Ahead& next) {
  clear_levels();
  const std::int64_t rows = (kSide + steps - 1) / steps;
  for (std::int64_t s = 0; s < steps; ++s) {
    next.fetch(kMultiplyWork);
    multiply_step(weight + s * kStepBytes, hidden + s * kStepBytes);
    before.add(rows);
  }
  _tile_stored(0, levels[0], 64);
  _tile_stored(1, levels[1], 64);
  _tile_stored(2, levels[2], 64);
  _tile_stored(3, levels[3], 64);
  _tile_stored(4, levels[4], 64);
  memory_is_needed();
}

struct TileProducts {
  static constexpr std::int64_t kBlockRows = 256;
  static constexpr std::int64_t kMostSize = 65536;

  // A block's part: digits[group of 16 rows][step][digit][4 elements][16 rows][element].
  static std::int64_t hidden_size(std::int64_t rows, std::int64_t size) { return digits_size(rows, size); }
  // digits[group of 16 weight rows][step][digit][row][64 elements]; totals[hidden group][weight group][weight][hidden].
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return totals_size(rows) + digits_size(kTile, size);
  }

  static void pack_hidden(const void* row, DType dtype, std::int64_t size, double greatest, std::int64_t index,
                          std::int64_t rows, DigitRow& digit_row, double* to) {
    char* digits = reinterpret_cast<char*>(to);
    const auto at = [&](std::int64_t step) {
      const std::int64_t piece = step / kSteps * kSteps;
      return digits + hidden_step(rows, steps_of(size), index / kSide, piece) * kStepBytes + step % kSteps * kStepBytes;
    };
    pack_row<Digits>(row, dtype, size, greatest, 0, 0, digit_row, [&](std::int64_t step, const Digits& own) {
      store_column(at(step), index % kSide, own.digit);
      return true;
    });
    if (index != rows - 1) return;
    const __m512i zeros[kDigits] = {};
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) {
      for (std::int64_t step = 0; step < steps_of(size); ++step) {
        store_column(at(step), column, zeros);
      }
    }
  }

  TileProducts(const double* hidden, std::int64_t count, std::int64_t size, double* scratch)
      : first(reinterpret_cast<const char*>(hidden)),
        rows(count),
        steps(steps_of(size)),
        totals(reinterpret_cast<std::int64_t*>(scratch)),
        digits(reinterpret_cast<char*>(scratch + totals_size(count))) {}

  // Sixteen rows of the tile at a time where the block's digits stay in L2 for all of them.
  bool multiply(const WeightTile& tile, DigitRow* weight_rows, std::int64_t& outside, SeenRows& seen) {
    std::memset(totals, 0, static_cast<std::size_t>(totals_size(rows)) * sizeof(std::int64_t));
    const bool kept = groups_of(rows) * steps * kStepBytes <= kMostKept;
    const std::int64_t at_once = kept ? kSide : kTile;
    for (std::int64_t begin = 0; begin < tile.count; begin += at_once) {
      const WeightTile part{tile.weight, tile.bias, tile.first + begin, std::min(at_once, tile.count - begin)};
      const std::int64_t work =
          steps * (part.count * kPackWork + groups_of(part.count) * groups_of(rows) * kMultiplyWork);
      Ahead next = behind(part, work);
      const auto pack = [&](std::int64_t j, const char* from, double greatest) {
        char* to = digits + (j - begin) / kSide * steps * kStepBytes + j % kSide * kStep;
        pack_row<Digits>(from, tile.weight->dtype, tile.weight->cols, greatest, 0, 0, weight_rows[j],
                         [&](std::int64_t step, const Digits& own) {
                           next.fetch(kPackWork);
                           for (std::int64_t d = 0; d < kDigits; ++d) {
                             _mm512_storeu_si512(to + step * kStepBytes + d * kTileBytes, own.digit[d]);
                           }
                           return true;
                         });
      };
      if (!pack_weight(tile, begin, begin + part.count, weight_rows, outside, seen, pack)) return false;
      multiply_part(groups_of(part.count), totals + begin * kSide, next);
    }
    return true;
  }

  __m512i hidden_column(std::int64_t group, std::int64_t at) const {
    const std::int64_t step = at / kStep;
    const std::int64_t place = place_of(at % kStep);
    const std::int64_t in_piece = step % kSteps;
    const char* from =
        first + (hidden_step(rows, steps, group, step - in_piece) + in_piece) * kStepBytes + place / 4 * 64;
    __m512i words[kDigits];
    for (std::int64_t d = 0; d < kDigits; ++d) words[d] = _mm512_loadu_si512(from + d * kTileBytes);
    return integers_at(words, place);
  }

  std::int64_t total(std::int64_t r, std::int64_t j) const {
    return totals[(r / kSide * kTile + j) * kSide + r % kSide];
  }

  void to_doubles(const DigitRow* hidden_rows, const DigitRow* weight_rows, std::int64_t count, double* sums) const {
    double weight_units[kTile] = {};
    for (std::int64_t j = 0; j < count; ++j) weight_units[j] = weight_rows[j].unit;
    for (std::int64_t r = 0; r < rows; r += 8) {
      const std::int64_t* of_rows = totals + r / kSide * kTile * kSide + r % kSide;
      for (std::int64_t j = 0; j < count; j += 8) {
        __m512d values[8];
        for (std::int64_t i = 0; i < 8; ++i) {
          values[i] = _mm512_cvtepi64_pd(_mm512_loadu_si512(of_rows + (j + i) * kSide));
        }
        transpose(values);
        const __m512d units = _mm512_loadu_pd(weight_units + j);
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < 8; ++i) {
          if (r + i >= rows) break;
          const __m512d unit = _mm512_mul_pd(_mm512_set1_pd(hidden_rows[r + i].unit), units);
          _mm512_storeu_pd(sums + (r + i) * kTile + j, _mm512_mul_pd(values[i], unit));
        }
      }
    }
  }

  static std::int64_t multiply_adds(std::int64_t steps) {
    const char zeros[kStepBytes] = {};
    const TileRegisters registers;
    clear_levels();
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    for (std::int64_t step = 0; step < steps; ++step) {
      _tile_dpbssd(4, 5, 7);
      _tile_dpbsud(3, 5, 6);
      _tile_dpbsud(2, 5, 7);
      _tile_dpbuud(1, 5, 7);
      _tile_dpbuud(0, 5, 7);
      _tile_dpbusd(3, 5, 7);
      _tile_dpbusd(2, 5, 7);
      _tile_dpbuud(1, 5, 6);
      _tile_dpbuud(2, 5, 6);
    }
    return steps * kSide * kSide * kStep;
  }

 private:
  static constexpr std::int64_t kMostKept = 1 << 20;  // bytes of digits of a block, half of an L2

  // In doubles.
  static std::int64_t digits_size(std::int64_t rows, std::int64_t size) {
    return groups_of(rows) * steps_of(size) * kStepBytes / static_cast<std::int64_t>(sizeof(double));
  }
  static std::int64_t totals_size(std::int64_t rows) { return groups_of(rows) * kSide * kTile; }

  static void store_column(char* step, std::int64_t column, const __m512i (&values)[kDigits]) {
    for (std::int64_t d = 0; d < kDigits; ++d) {
      std::uint32_t words[kSide];
      std::memcpy(words, &values[d], sizeof words);
      for (std::int64_t k = 0; k < kSide; ++k) {
        std::memcpy(step + d * kTileBytes + (k * kSide + column) * 4, &words[k], 4);
      }
    }
  }

  // In steps, where those of a group from the first of a piece on are.
  static std::int64_t hidden_step(std::int64_t rows, std::int64_t steps, std::int64_t group, std::int64_t piece) {
    return groups_of(rows) * piece + group * std::min(kSteps, steps - piece);
  }

  void multiply_part(std::int64_t weights, std::int64_t* to, Ahead& next) const {
    memory_is_needed();
    const TileRegisters registers;
    alignas(64) Levels levels[2];
    Rows before;
    std::int64_t turn = 0;
    for (std::int64_t begin = 0; begin < steps; begin += kSteps) {
      const std::int64_t count = std::min(kSteps, steps - begin);
      for (std::int64_t w = 0; w < weights; ++w) {
        for (std::int64_t g = 0; g < groups_of(rows); ++g) {
          multiply_steps(digits + (w * steps + begin) * kStepBytes,
                         first + hidden_step(rows, steps, g, begin) * kStepBytes, count, levels[turn], before, next);
          before = {&levels[turn], to + (g * kTile + w * kSide) * kSide, 0};
          turn = 1 - turn;
        }
      }
    }
    before.add(kSide);
  }

  const char* first;  // hidden digits
  std::int64_t rows;
  std::int64_t steps;
  std::int64_t* totals;
  char* digits;  // of the weight
};

}  // namespace

const Target& amx_target(const Entry& entry) {
  return only<F64Target<DigitSums<TileProducts>>, k_amx_shape>(entry, amx_loops());
}

}  // namespace isologit::detail::kernels
