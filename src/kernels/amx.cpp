// AMX: exact integer products of digits (kernels/digits.hpp), sixteen weight rows by sixteen hidden rows at a time.
//
// Why it is right. The sum over the elements that are inside both windows is u_h u_w times an integer: of each pair of
// digits the products are added up in int32 (kSteps * 64 products, three pairs to a sum, below 2^28), those in int64
// (below 2^46 times kMostSize). It is rounded once, to f64; the products with an element outside are exact and added
// one by one. So a term passes through at most 1 + (elements outside in both rows) roundings, and the certificate
// of kernels/f64_tile.hpp holds with that as D. Blocks of few rows, which are bound by reading the weight, and rows
// with no window that leaves few elements outside go through the f64 sums of kernels/panel.hpp.
//
// Floor: nine products of digits for one of elements, on tiles of 16 x 16 x 64, sixteen cycles each: 16384
// multiply-adds in 144 cycles. The weight is taken apart once for every block of hidden rows, about 0.3 cycles an
// element. Loads for these nine: three tiles of the weight, five of hidden, 8 x 8 cycles, beside the products. A step's
// digits are 3 KB on either side; kSteps of the weight's stay in L1 while hidden passes, a block of hidden in L2.
// Measured on 16 processors of a Xeon with AMX (docs/performance.md): 256 rows at 122 GFLOP/s a core, a quarter of what
// the nine products alone do. Fewer rows are bound by taking the weight apart: digits and f64 sums, in ms (V=151936, a
// thread), 8 rows 112 and 71, 12 rows 123 and 125, 14 rows 125 and 131 for H=1024; 12 rows 453 and 477, 14 rows 484 and
// 623 for H=4096.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.hpp"
#include "kernels/digits.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kStepBytes = kDigits * kTileBytes;
constexpr std::int64_t kSteps = 16;
constexpr std::int64_t kLevels = 2 * kDigits - 1;  // sums of products by what they count, 2^0, 2^8, ... 2^32
constexpr std::int64_t kMostSize = 65536;

using Levels = std::int32_t[kLevels][kSide][kSide];

// The nine products of one step. Tiles 0 to 4 are the levels, 5 holds weight digits, 6 and 7 hidden ones; the hidden
// digits take turns so that the middle one is loaded once.
inline void multiply_step(const char* weight, const char* hidden) {
  _tile_loadd(5, weight + 2 * kTileBytes, 64);
  _tile_loadd(7, hidden + 2 * kTileBytes, 64);
  _tile_loadd(6, hidden + kTileBytes, 64);
  _tile_dpbssd(4, 5, 7);
  _tile_dpbsud(3, 5, 6);
  _tile_loadd(7, hidden, 64);
  _tile_dpbsud(2, 5, 7);
  _tile_loadd(5, weight + kTileBytes, 64);
  _tile_dpbuud(1, 5, 7);
  _tile_dpbuud(2, 5, 6);
  _tile_loadd(7, hidden + 2 * kTileBytes, 64);
  _tile_dpbusd(3, 5, 7);
  _tile_loadd(5, weight, 64);
  _tile_dpbusd(2, 5, 7);
  _tile_dpbuud(1, 5, 6);
  _tile_loadd(7, hidden, 64);
  _tile_dpbuud(0, 5, 7);
}

inline void clear_levels() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
}

void multiply_steps(const char* weight, const char* hidden, std::int64_t steps, Levels& levels) {
  clear_levels();
  for (std::int64_t s = 0; s < steps; ++s) multiply_step(weight + s * kStepBytes, hidden + s * kStepBytes);
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
  static constexpr std::int64_t kDigitsFrom = 12;  // from so many hidden rows on

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) { return rows_at(rows, size) + rows * kRowSize; }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    const std::int64_t of_panel = Panel::scratch_size(rows, size);
    return rows < kDigitsFrom || size > kMostSize ? of_panel : std::max(of_panel, Scratch::size(rows, size));
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      double* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    if (rows < kDigitsFrom || size > kMostSize) return;
    auto* digits = reinterpret_cast<char*>(block + digits_at(rows, size)) + index / kSide * steps_of(size) * kStepBytes;
    pack_row(row, dtype, size, reinterpret_cast<DigitRow*>(block + rows_at(rows, size))[index],
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

  template <class See>
  static std::int64_t sums(const double* block, std::int64_t rows, const WeightTile& tile, double* sums,
                           double* scratch, See&& see) {
    const std::int64_t size = tile.weight->cols;
    if (rows >= kDigitsFrom && size <= kMostSize) {
      const Hidden hidden(block, rows, size);
      const Scratch own(scratch, rows, size);
      std::int64_t outside_hidden = 0;
      std::int64_t outside_weight = 0;
      const bool fit = hidden.fits(rows, outside_hidden) && pack_weight(tile, own, outside_weight);
      if (fit) {
        multiply(hidden, rows, tile.count, size, own);
        to_doubles(hidden, rows, tile.count, own, sums);
        if (outside_weight > 0) add_outside_weight(block, hidden, rows, tile, own, sums);
        if (outside_hidden > 0) add_outside_hidden(hidden, rows, tile, own, sums);
        exact::with_dtype(tile.weight->dtype, [&]<DType kDType>() {
          for (std::int64_t j = 0; j < tile.count; ++j) {
            see.template operator()<kDType>(j, static_cast<const char*>(exact::row_data(*tile.weight, tile.first + j)),
                                            size);
          }
        });
        return 1 + outside_hidden + outside_weight;
      }
    }
    return Panel::sums(block, rows, tile, sums, scratch, see);
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
  static constexpr std::int64_t kColumns = 256;  // of the weight, kept for the hidden elements outside

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
        : totals(reinterpret_cast<std::int64_t*>(scratch)),
          columns(scratch + groups_of(hidden_rows) * kSide * kTile),
          digits(reinterpret_cast<char*>(columns + kColumns * kTile)),
          rows(reinterpret_cast<DigitRow*>(columns + kColumns * kTile + digits_size(kTile, size))) {}

    static std::int64_t size(std::int64_t rows, std::int64_t size) {
      return groups_of(rows) * kSide * kTile + kColumns * kTile + digits_size(kTile, size) + kTile * kRowSize;
    }

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

  // False when a row has no digits.
  static bool pack_weight(const WeightTile& tile, const Scratch& own, std::int64_t& outside) {
    const std::int64_t size = tile.weight->cols;
    for (std::int64_t j = 0; j < tile.count; ++j) {
      char* to = own.digits + j / kSide * steps_of(size) * kStepBytes + j % kSide * kStep;
      DigitRow& row = own.rows[j];
      pack_row(exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, size, row,
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

  static void multiply(const Hidden& hidden, std::int64_t rows, std::int64_t weight_rows, std::int64_t size,
                       const Scratch& own) {
    const std::int64_t steps = steps_of(size);
    const std::int64_t weight_groups = groups_of(weight_rows);
    std::memset(own.totals, 0, static_cast<std::size_t>(groups_of(rows) * kSide * kTile) * sizeof(std::int64_t));
    memory_is_needed();
    const TileRegisters registers;
    alignas(64) Levels levels;
    for (std::int64_t first = 0; first < steps; first += kSteps) {
      const std::int64_t count = std::min(kSteps, steps - first);
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        for (std::int64_t w = 0; w < weight_groups; ++w) {
          multiply_steps(own.digits + (w * steps + first) * kStepBytes, hidden.digits(g) + first * kStepBytes, count,
                         levels);
          add_levels(levels, own.totals + (g * kTile + w * kSide) * kSide);
        }
      }
    }
  }

  static void to_doubles(const Hidden& hidden, std::int64_t rows, std::int64_t weight_rows, const Scratch& own,
                         double* sums) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t* totals = own.totals + r / kSide * kTile * kSide + r % kSide;
      const double unit = hidden.rows[r].unit;
      for (std::int64_t j = 0; j < weight_rows; ++j) {
        sums[r * kTile + j] = static_cast<double>(totals[j * kSide]) * (unit * own.rows[j].unit);
      }
    }
  }

  // Weight elements outside times the hidden elements inside.
  static void add_outside_weight(const double* block, const Hidden& hidden, std::int64_t rows, const WeightTile& tile,
                                 const Scratch& own, double* sums) {
    for (std::int64_t j = 0; j < tile.count; ++j) {
      for (std::int64_t i = 0; i < own.rows[j].outside; ++i) {
        const DigitRow::Outside& outside = own.rows[j].list[i];
        const double* h = block + outside.at / kChunk * rows * kStride + outside.at % kChunk;
        for (std::int64_t r = 0; r < rows; ++r) {
          const double x = h[r * kStride];
          if (hidden.rows[r].holds(x)) sums[r * kTile + j] += x * static_cast<double>(outside.value);
        }
      }
    }
  }

  // Hidden elements outside times all weight elements. Rows often share such channels (outliers), so a channel's
  // weights are kept until another takes their place.
  static void add_outside_hidden(const Hidden& hidden, std::int64_t rows, const WeightTile& tile, const Scratch& own,
                                 double* sums) {
    std::int32_t kept[kColumns];
    std::fill(std::begin(kept), std::end(kept), -1);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < hidden.rows[r].outside; ++i) {
        const DigitRow::Outside& outside = hidden.rows[r].list[i];
        const std::uint32_t place = static_cast<std::uint32_t>(outside.at) * 2654435761U >> 24;
        double* column = own.columns + place * kTile;
        if (kept[place] != outside.at) {
          kept[place] = outside.at;
          for (std::int64_t j = 0; j < tile.count; ++j) {
            column[j] = static_cast<double>(
                exact::load_element(exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, outside.at));
          }
        }
        for (std::int64_t j = 0; j < tile.count; ++j) {
          sums[r * kTile + j] += static_cast<double>(outside.value) * column[j];
        }
      }
    }
  }
};

}  // namespace

const Target& amx_target(const Entry& entry) { return only<F64Target<DigitSums>, k_amx_shape>(entry, amx_loops()); }

}  // namespace isologit::detail::kernels
