// AMX: exact integer products of digits (kernels/digit_sums.hpp), sixteen weight rows by sixteen hidden rows at a time.
//
// Of each pair of digits the products are added up in int32 (kSteps * 64 products, three pairs to a sum, below 2^28),
// those in int64. (Blocks of few rows, which are bound by reading the weight, are left to avx512.)
//
// Floor: nine products of digits for one of elements, on tiles of 16 x 16 x 64, sixteen cycles each: 16384
// multiply-adds in 144 cycles. The weight is taken apart once for every block of hidden rows, about 0.3 cycles an
// element. Loads for these nine: four tiles of the weight, four of hidden, 8 x 8 cycles, beside the products. A step's
// digits are 3 KB on either side; kSteps of the weight's stay in L1 while hidden passes, a block of hidden in L2.
// Rows are read ahead by a whole row and, while tiles multiply, by a tile. Measured on 16 processors of a Xeon with AMX
// (docs/performance.md): of 256 rows a quarter of what the nine products alone do, the loads of digits from L2 being
// the rest. Of 4096 elements a sixth of the time of 64 rows or more went to open logits, one in some hundred, by 4096
// additions in fixed point; from the digits' total (exact_terms) it is below a hundredth.
//
// Digits and the f64 sums of avx512, all tiles of V=151936, two threads, ms: H=1024 4 rows 32 and 25, 7 rows 33 and 31,
// 8 rows 33 and 35, 12 rows 35 and 53; H=4096 4 rows 221 and 160, 8 rows 239 and 237, 10 rows 237 and 289.
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
constexpr std::int64_t kSteps = 16;
constexpr std::int64_t kLevels = 2 * kDigits - 1;  // sums of products by what they count, 2^0, 2^8, ... 2^32
constexpr std::int64_t kLinesPerStep = 8;

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

void multiply_steps(const char* weight, const char* hidden, std::int64_t steps, Levels& levels, NextTile& next) {
  clear_levels();
  for (std::int64_t s = 0; s < steps; ++s) {
    next.fetch(kLinesPerStep);
    multiply_step(weight + s * kStepBytes, hidden + s * kStepBytes);
  }
  _tile_stored(0, levels[0], 64);
  _tile_stored(1, levels[1], 64);
  _tile_stored(2, levels[2], 64);
  _tile_stored(3, levels[3], 64);
  _tile_stored(4, levels[4], 64);
  memory_is_needed();
}

void add_levels(const Levels& levels, std::int64_t* totals) {
  for (std::int64_t w = 0; w < kSide; ++w) {
    for (std::int64_t h = 0; h < kSide; ++h) {
      std::int64_t sum = 0;
      for (std::int64_t level = kLevels; level-- > 0;) sum = sum * 256 + levels[level][w][h];
      totals[w * kSide + h] += sum;
    }
  }
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
    char* digits = reinterpret_cast<char*>(to) + index / kSide * steps_of(size) * kStepBytes;
    pack_row(row, dtype, size, greatest, 0, digit_row, [&](std::int64_t step, const __m512i(&values)[kDigits]) {
      store_column(digits + step * kStepBytes, index % kSide, values);
      return true;
    });
    if (index != rows - 1) return;
    const __m512i zeros[kDigits] = {};
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) {
      for (std::int64_t step = 0; step < steps_of(size); ++step) {
        store_column(digits + step * kStepBytes, column, zeros);
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
  bool multiply(const WeightTile& tile, DigitRow* weight_rows, std::int64_t& outside, Magnitudes& magnitudes) {
    std::memset(totals, 0, static_cast<std::size_t>(totals_size(rows)) * sizeof(std::int64_t));
    const std::int64_t part = groups_of(rows) * steps * kStepBytes <= kMostKept ? kSide : kTile;
    for (std::int64_t begin = 0; begin < tile.count; begin += part) {
      const std::int64_t end = std::min(begin + part, tile.count);
      const auto pack = [&](std::int64_t j, const char* from, double greatest) {
        char* to = digits + (j - begin) / kSide * steps * kStepBytes + j % kSide * kStep;
        pack_row(from, tile.weight->dtype, tile.weight->cols, greatest, 0, weight_rows[j],
                 [&](std::int64_t step, const __m512i(&values)[kDigits]) {
                   for (std::int64_t d = 0; d < kDigits; ++d) {
                     _mm512_storeu_si512(to + step * kStepBytes + d * kTileBytes, values[d]);
                   }
                   return true;
                 });
      };
      if (!pack_weight(tile, begin, end, weight_rows, outside, magnitudes, pack)) return false;
      multiply_part({tile.weight, tile.bias, tile.first + begin, end - begin}, totals + begin * kSide);
    }
    return true;
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

  void multiply_part(const WeightTile& part, std::int64_t* to) const {
    NextTile next(part);
    memory_is_needed();
    const TileRegisters registers;
    alignas(64) Levels levels;
    for (std::int64_t begin = 0; begin < steps; begin += kSteps) {
      const std::int64_t count = std::min(kSteps, steps - begin);
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        for (std::int64_t w = 0; w < groups_of(part.count); ++w) {
          multiply_steps(digits + (w * steps + begin) * kStepBytes, first + (g * steps + begin) * kStepBytes, count,
                         levels, next);
          add_levels(levels, to + (g * kTile + w * kSide) * kSide);
        }
      }
    }
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
