// AMX: exact integer products of digits (kernels/digits.hpp), sixteen weight rows by sixteen hidden rows at a time.
//
// Why it is right. The sum over the elements that are inside both windows is u_h u_w times an integer: of each pair of
// digits the products are added up in int32 (kSteps * 64 products, three pairs to a sum, below 2^28), those in int64
// (below 2^46 times kMostSize). It is rounded once, to f64; the products with an element outside are exact and added
// one by one. So a term passes through at most 1 + (elements outside in both rows) roundings, and the certificate
// of kernels/f64_tile.hpp holds with that as D. Rows with no window that leaves few elements outside go through the f64
// sums of kernels/panel.hpp. (Blocks of few rows, which are bound by reading the weight, are left to avx512.)
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
#include "kernels/digits.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kStepBytes = kDigits * kTileBytes;
constexpr std::int64_t kSteps = 16;
constexpr std::int64_t kLevels = 2 * kDigits - 1;  // sums of products by what they count, 2^0, 2^8, ... 2^32
constexpr std::int64_t kLinesPerStep = 8;
constexpr std::int64_t kMostSize = 65536;

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

// Sums as those of Panel<Doubles>, whose prepared block it keeps in front of its own.
struct DigitSums : Panel<Doubles> {
  static constexpr std::int64_t kBlockRows = 256;

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) { return rows_at(rows, size) + rows * kRowSize; }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    const std::int64_t of_panel = kHeader + Panel::scratch_size(rows, size);
    return size > kMostSize ? of_panel : std::max(of_panel, Scratch::size(rows, size));
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      double* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    if (size > kMostSize) return;
    auto* digits = reinterpret_cast<char*>(block + digits_at(rows, size)) + index / kSide * steps_of(size) * kStepBytes;
    pack_row(row, dtype, size, greatest_of(row, dtype, size),
             reinterpret_cast<DigitRow*>(block + rows_at(rows, size))[index],
             [&](std::int64_t step, const __m512i(&values)[kDigits]) {
               store_column(digits + step * kStepBytes, index % kSide, values);
             });
    if (index != rows - 1) return;
    const __m512i zeros[kDigits] = {};
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) {
      for (std::int64_t step = 0; step < steps_of(size); ++step) {
        store_column(digits + step * kStepBytes, column, zeros);
      }
    }
  }

  static std::int64_t sums(const double* block, std::int64_t rows, const WeightTile& tile, double* sums,
                           double* scratch, Magnitudes& see) {
    const std::int64_t size = tile.weight->cols;
    if (size <= kMostSize) {
      const Hidden hidden(block, rows, size);
      const Scratch own(scratch, rows, size);
      std::int64_t outside_hidden = 0;
      std::int64_t outside_weight = 0;
      const bool fit = hidden.fits(rows, outside_hidden) && multiply(hidden, rows, tile, own, outside_weight, see);
      *own.fit = fit;
      if (fit) {
        to_doubles(hidden, rows, tile.count, own, sums);
        if (outside_weight > 0) add_outside_weight(block, rows, tile, own, sums);
        if (outside_hidden > 0) add_outside_hidden(hidden, rows, tile, own, sums);
        return 1 + outside_hidden + outside_weight;
      }
    }
    return Panel::sums(block, rows, tile, sums, scratch + kHeader, see);
  }

  // After `sums` of finite elements: the digits' total in two halves and the products with elements outside.
  static constexpr std::int64_t kMostTerms = 2 + 2 * kMostOutside;
  static std::int64_t exact_terms(const double* block, std::int64_t rows, const WeightTile& tile, std::int64_t r,
                                  std::int64_t j, double* scratch, double* terms) {
    const std::int64_t size = tile.weight->cols;
    if (size > kMostSize) return 0;
    const Hidden hidden(block, rows, size);
    const Scratch own(scratch, rows, size);
    if (!*own.fit) return 0;
    const double unit = hidden.rows[r].unit * own.rows[j].unit;
    if (unit > 0x1p190) return 0;  // or a half may exceed what exact_sum holds
    const std::int64_t total = own.totals[(r / kSide * kTile + j) * kSide + r % kSide];
    std::int64_t count = 0;
    terms[count++] = static_cast<double>(total >> 32) * 0x1p32 * unit;
    terms[count++] = static_cast<double>(total & 0xFFFFFFFF) * unit;
    for (std::int64_t i = 0; i < own.rows[j].outside; ++i) {
      const DigitRow::Outside& outside = own.rows[j].list[i];
      terms[count++] = static_cast<double>(outside.value) *
                       block[outside.at / kChunk * rows * kStride + r * kStride + outside.at % kChunk];
    }
    for (std::int64_t i = 0; i < hidden.rows[r].outside; ++i) {
      const DigitRow::Outside& outside = hidden.rows[r].list[i];
      if (own.rows[j].lists(outside.at)) continue;
      terms[count++] = static_cast<double>(outside.value) * element(tile, j, outside.at);
    }
    return count;
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
  static constexpr auto kRowSize = static_cast<std::int64_t>(sizeof(DigitRow) / sizeof(double));
  static constexpr std::int64_t kHeader = 8;          // doubles of a scratch that no sums write to
  static constexpr std::int64_t kMostKept = 1 << 20;  // bytes of digits of a block, half of an L2
  static constexpr std::int64_t kColumns = 256;       // of the weight, kept for the hidden elements outside

  // In doubles.
  static std::int64_t digits_size(std::int64_t rows, std::int64_t size) {
    return groups_of(rows) * steps_of(size) * kStepBytes / static_cast<std::int64_t>(sizeof(double));
  }

  // Where a prepared block holds digits and rows.
  static std::int64_t digits_at(std::int64_t rows, std::int64_t size) { return Panel::block_size(rows, size); }
  static std::int64_t rows_at(std::int64_t rows, std::int64_t size) {
    return digits_at(rows, size) + digits_size(rows, size);
  }

  // A prepared block: that of Panel, digits[group of 16 rows][step][digit][4 elements][16 rows][element], the rows.
  struct Hidden {
    Hidden(const double* block, std::int64_t count, std::int64_t size)
        : first(reinterpret_cast<const char*>(block + digits_at(count, size))),
          rows(reinterpret_cast<const DigitRow*>(block + rows_at(count, size))),
          group_bytes(steps_of(size) * kStepBytes) {}

    const char* digits(std::int64_t group) const { return first + group * group_bytes; }

    // Whether all rows have digits, and the most elements outside in one.
    bool fits(std::int64_t count, std::int64_t& outside) const {
      for (std::int64_t r = 0; r < count; ++r) {
        if (!rows[r].fits) return false;
        outside = std::max(outside, rows[r].outside);
      }
      return true;
    }

    const char* first;
    const DigitRow* rows;
    std::int64_t group_bytes;
  };

  // digits[group of 16 weight rows][step][digit][row][64 elements]; totals[hidden group][weight group][weight][hidden].
  struct Scratch {
    Scratch(double* scratch, std::int64_t hidden_rows, std::int64_t size)
        : fit(reinterpret_cast<bool*>(scratch)),
          totals(reinterpret_cast<std::int64_t*>(scratch + kHeader)),
          columns(scratch + kHeader + groups_of(hidden_rows) * kSide * kTile),
          digits(reinterpret_cast<char*>(columns + kColumns * kTile)),
          rows(reinterpret_cast<DigitRow*>(columns + kColumns * kTile + digits_size(kTile, size))) {}

    static std::int64_t size(std::int64_t rows, std::int64_t size) {
      return kHeader + groups_of(rows) * kSide * kTile + kColumns * kTile + digits_size(kTile, size) + kTile * kRowSize;
    }

    bool* fit;  // whether the tile was multiplied by digits
    std::int64_t* totals;
    double* columns;
    char* digits;
    DigitRow* rows;
  };

  static void store_column(char* step, std::int64_t column, const __m512i (&values)[kDigits]) {
    for (std::int64_t d = 0; d < kDigits; ++d) {
      std::uint32_t words[kSide];
      std::memcpy(words, &values[d], sizeof words);
      for (std::int64_t k = 0; k < kSide; ++k) {
        std::memcpy(step + d * kTileBytes + (k * kSide + column) * 4, &words[k], 4);
      }
    }
  }

  // Rows [begin, end) of the tile. False when one has no digits.
  static bool pack_weight(const WeightTile& tile, std::int64_t begin, std::int64_t end, const Scratch& own,
                          std::int64_t& outside, Magnitudes& magnitudes) {
    const std::int64_t size = tile.weight->cols;
    const DType dtype = tile.weight->dtype;
    for (std::int64_t j = begin; j < end; ++j) {
      const char* from = static_cast<const char*>(exact::row_data(*tile.weight, tile.first + j));
      exact::with_dtype(dtype, [&]<DType kDType>() { magnitudes.operator()<kDType>(j, from, size); });
      char* to = own.digits + (j - begin) / kSide * steps_of(size) * kStepBytes + j % kSide * kStep;
      DigitRow& row = own.rows[j];
      pack_row(from, dtype, size, magnitudes.rows[j].of(dtype), row,
               [&](std::int64_t step, const __m512i(&values)[kDigits]) {
                 for (std::int64_t d = 0; d < kDigits; ++d) {
                   _mm512_storeu_si512(to + step * kStepBytes + d * kTileBytes, values[d]);
                 }
               });
      if (!row.fits) return false;
      outside = std::max(outside, row.outside);
    }
    return true;
  }

  // Takes the tile apart and multiplies it, sixteen of its rows at a time where the block's digits stay in L2 for all
  // of them. False when a row has no digits.
  static bool multiply(const Hidden& hidden, std::int64_t rows, const WeightTile& tile, const Scratch& own,
                       std::int64_t& outside, Magnitudes& magnitudes) {
    std::memset(own.totals, 0, static_cast<std::size_t>(groups_of(rows) * kSide * kTile) * sizeof(std::int64_t));
    const std::int64_t part = groups_of(rows) * hidden.group_bytes <= kMostKept ? kSide : kTile;
    for (std::int64_t begin = 0; begin < tile.count; begin += part) {
      const std::int64_t end = std::min(begin + part, tile.count);
      if (!pack_weight(tile, begin, end, own, outside, magnitudes)) return false;
      multiply_part(hidden, rows, {tile.weight, tile.bias, tile.first + begin, end - begin}, own,
                    own.totals + begin * kSide);
    }
    return true;
  }

  static void multiply_part(const Hidden& hidden, std::int64_t rows, const WeightTile& part, const Scratch& own,
                            std::int64_t* totals) {
    const std::int64_t steps = steps_of(part.weight->cols);
    NextTile next(part);
    memory_is_needed();
    const TileRegisters registers;
    alignas(64) Levels levels;
    for (std::int64_t first = 0; first < steps; first += kSteps) {
      const std::int64_t count = std::min(kSteps, steps - first);
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        for (std::int64_t w = 0; w < groups_of(part.count); ++w) {
          multiply_steps(own.digits + (w * steps + first) * kStepBytes, hidden.digits(g) + first * kStepBytes, count,
                         levels, next);
          add_levels(levels, totals + (g * kTile + w * kSide) * kSide);
        }
      }
    }
  }

  static void to_doubles(const Hidden& hidden, std::int64_t rows, std::int64_t weight_rows, const Scratch& own,
                         double* sums) {
    double weight_units[kTile] = {};
    for (std::int64_t j = 0; j < weight_rows; ++j) weight_units[j] = own.rows[j].unit;
    for (std::int64_t r = 0; r < rows; r += 8) {
      const std::int64_t* totals = own.totals + r / kSide * kTile * kSide + r % kSide;
      for (std::int64_t j = 0; j < weight_rows; j += 8) {
        __m512d values[8];
        for (std::int64_t i = 0; i < 8; ++i) {
          values[i] = _mm512_cvtepi64_pd(_mm512_loadu_si512(totals + (j + i) * kSide));
        }
        transpose(values);
        const __m512d units = _mm512_loadu_pd(weight_units + j);
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < 8; ++i) {
          if (r + i >= rows) break;
          const __m512d unit = _mm512_mul_pd(_mm512_set1_pd(hidden.rows[r + i].unit), units);
          _mm512_storeu_pd(sums + (r + i) * kTile + j, _mm512_mul_pd(values[i], unit));
        }
      }
    }
  }

  // Weight elements outside times all hidden elements.
  static void add_outside_weight(const double* block, std::int64_t rows, const WeightTile& tile, const Scratch& own,
                                 double* sums) {
    for (std::int64_t j = 0; j < tile.count; ++j) {
      for (std::int64_t i = 0; i < own.rows[j].outside; ++i) {
        const DigitRow::Outside& outside = own.rows[j].list[i];
        const double* h = block + outside.at / kChunk * rows * kStride + outside.at % kChunk;
        const auto w = static_cast<double>(outside.value);
        for (std::int64_t r = 0; r < rows; ++r) sums[r * kTile + j] += h[r * kStride] * w;
      }
    }
  }

  // Hidden elements outside times the weight elements inside. Rows often share such channels (outliers), so a channel's
  // weights are kept until another takes their place.
  static void add_outside_hidden(const Hidden& hidden, std::int64_t rows, const WeightTile& tile, const Scratch& own,
                                 double* sums) {
    std::int32_t kept[kColumns];
    std::fill(std::begin(kept), std::end(kept), -1);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < hidden.rows[r].outside; ++i) {
        const DigitRow::Outside& outside = hidden.rows[r].list[i];
        const auto h = static_cast<double>(outside.value);
        if (!std::isfinite(h)) {  // times the 0 that stands for an element outside it would be NaN
          for (std::int64_t j = 0; j < tile.count; ++j) {
            if (!own.rows[j].lists(outside.at)) sums[r * kTile + j] += h * element(tile, j, outside.at);
          }
          continue;
        }
        const std::uint32_t place = static_cast<std::uint32_t>(outside.at) * 2654435761U >> 24;
        double* column = own.columns + place * kTile;
        if (kept[place] != outside.at) {
          kept[place] = outside.at;
          for (std::int64_t j = 0; j < tile.count; ++j) {
            column[j] = own.rows[j].lists(outside.at) ? 0 : element(tile, j, outside.at);
          }
        }
        for (std::int64_t j = 0; j < tile.count; ++j) sums[r * kTile + j] += h * column[j];
      }
    }
  }

  static double element(const WeightTile& tile, std::int64_t j, std::int64_t at) {
    return static_cast<double>(
        exact::load_element(exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, at));
  }
};

}  // namespace

const Target& amx_target(const Entry& entry) { return only<F64Target<DigitSums>, k_amx_shape>(entry, amx_loops()); }

}  // namespace isologit::detail::kernels
