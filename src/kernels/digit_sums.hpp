// Sums of products from digits (kernels/digits.hpp), by integer products that a file of an instruction set supplies;
// for files compiled for AVX-512.
//
// Why it is right. The sum over the elements that are inside both windows is u_h u_w times an integer below 2^46 times
// kMostSize, which `Products` makes exactly. It is rounded once, to f64; the products with an element outside are exact
// and added one by one. So a term passes through at most 1 + (elements outside in both rows) roundings, and the
// certificate of kernels/f64_tile.hpp holds with that as D. Rows without digits, as `Products` wants them, go through
// the f64 sums of kernels/panel.hpp.
//
// `Products` supplies:
//
//   kBlockRows, kMostSize         the most rows of a block, and the most elements of a row that it multiplies
//   hidden_size, scratch_size     (rows, size): doubles of its part of a prepared block, and of its scratch
//   pack_hidden(row, dtype, size, greatest, index, rows, digit_row, to)   row `index` of a block into its part
//   Products(hidden, rows, size, scratch)   to multiply a block
//   multiply(tile, weight_rows, outside, magnitudes)   packs the tile's rows (pack_weight) and multiplies them; false
//                                 where one of them has no digits
//   hidden_column(group, at)      the integers at one place of sixteen hidden rows, 0 for elements outside
//   total(r, j)                   that integer, afterwards
//   to_doubles(hidden_rows, weight_rows, count, sums)   all of them times their units
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/digits.hpp"
#include "kernels/f64_tile.hpp"

namespace isologit::detail::kernels {
namespace {

// What is seen of a tile's weight rows while they are in a cache: their magnitudes, and their elements where hidden
// rows have some outside, columns[column][weight row]. Hidden rows often share such channels (outliers).
class SeenRows {
 public:
  static constexpr std::int64_t kColumns = 256;

  SeenRows(const DigitRow* hidden, std::int64_t rows, Magnitudes& magnitudes, double* columns)
      : magnitudes_(magnitudes), columns_(columns) {
    std::fill(std::begin(places_), std::end(places_), Place{-1, -1});
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < hidden[r].outside && count_ < kColumns; ++i) {
        const std::int32_t at = hidden[r].list[i].at;
        Place& place = places_[place_of(at)];
        if (place.at == at) continue;
        place = {at, count_};
        all_[count_++] = at;
      }
    }
  }

  // Returns the greatest magnitude.
  double see(const WeightTile& tile, std::int64_t j, const char* from) {
    const DType dtype = tile.weight->dtype;
    exact::with_dtype(dtype, [&]<DType kDType>() {
      magnitudes_.operator()<kDType>(j, from, tile.weight->cols);
      for (std::int64_t i = 0; i < count_; ++i) {
        columns_[i * kTile + j] = static_cast<double>(exact::load_element(from, kDType, all_[i]));
      }
    });
    return magnitudes_.rows[j].of(dtype);
  }

  // Null where there were too many.
  const double* column(std::int32_t at) const {
    const Place& place = places_[place_of(at)];
    return place.at == at ? columns_ + place.column * kTile : nullptr;
  }

 private:
  struct Place {
    std::int32_t at;
    std::int32_t column;
  };
  static constexpr std::size_t kPlaces = 2 * kColumns;  // so that one is always free

  // Where a column is, or would be.
  std::size_t place_of(std::int32_t at) const {
    std::size_t place = static_cast<std::uint32_t>(at) * 2654435761U >> 23;
    while (places_[place].at != -1 && places_[place].at != at) place = (place + 1) % kPlaces;
    return place;
  }

  Magnitudes& magnitudes_;
  double* columns_;
  Place places_[kPlaces];
  std::int32_t all_[kColumns];
  std::int32_t count_ = 0;
};

// Rows [begin, end) of the tile by pack(j, from, greatest). False when one has no digits, else the most elements
// outside.
template <class Pack>
bool pack_weight(const WeightTile& tile, std::int64_t begin, std::int64_t end, const DigitRow* rows,
                 std::int64_t& outside, SeenRows& seen, Pack&& pack) {
  for (std::int64_t j = begin; j < end; ++j) {
    const char* from = static_cast<const char*>(exact::row_data(*tile.weight, tile.first + j));
    pack(j, from, seen.see(tile, j, from));
    if (!rows[j].fits) return false;
    outside = std::max(outside, rows[j].outside);
  }
  return true;
}

// Sums as those of Panel<Doubles>, whose prepared block it keeps in front of its own.
template <class Products>
struct DigitSums : Panel<Doubles> {
  static constexpr std::int64_t kBlockRows = Products::kBlockRows;

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) { return rows_at(rows, size) + rows * kRowSize; }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    const std::int64_t of_panel = kHeader + Panel::scratch_size(rows, size);
    return size > Products::kMostSize ? of_panel : std::max(of_panel, kOwn + Products::scratch_size(rows, size));
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      double* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    if (size > Products::kMostSize) return;
    Products::pack_hidden(row, dtype, size, greatest_of(row, dtype, size), index, rows,
                          reinterpret_cast<DigitRow*>(block + rows_at(rows, size))[index],
                          block + digits_at(rows, size));
  }

  static std::int64_t sums(const double* block, std::int64_t rows, const WeightTile& tile, double* sums,
                           double* scratch, Magnitudes& see) {
    const std::int64_t size = tile.weight->cols;
    if (size <= Products::kMostSize) {
      const DigitRow* hidden = hidden_rows(block, rows, size);
      const Scratch own(scratch);
      Products products(block + digits_at(rows, size), rows, size, scratch + kOwn);
      std::int64_t outside_hidden = 0;
      std::int64_t outside_weight = 0;
      *own.fit = all_fit(hidden, rows, outside_hidden);
      if (*own.fit) {
        SeenRows seen(hidden, rows, see, own.columns);
        *own.fit = products.multiply(tile, own.rows, outside_weight, seen);
        if (*own.fit) {
          products.to_doubles(hidden, own.rows, tile.count, sums);
          if (outside_weight > 0) add_outside_weight(products, block, rows, tile, own, sums);
          if (outside_hidden > 0) add_outside_hidden(hidden, rows, tile, seen, sums);
          return 1 + outside_hidden + outside_weight;
        }
      }
    }
    return Panel::sums(block, rows, tile, sums, scratch + kHeader, see);
  }

  // After `sums` of finite elements: the digits' total in two halves and the products with elements outside.
  static constexpr std::int64_t kMostTerms = 2 + 2 * kMostOutside;
  static std::int64_t exact_terms(const double* block, std::int64_t rows, const WeightTile& tile, std::int64_t r,
                                  std::int64_t j, double* scratch, double* terms) {
    const std::int64_t size = tile.weight->cols;
    if (size > Products::kMostSize) return 0;
    const DigitRow& hidden = hidden_rows(block, rows, size)[r];
    const Scratch own(scratch);
    if (!*own.fit) return 0;
    const double unit = hidden.unit * own.rows[j].unit;
    if (unit > 0x1p190) return 0;  // or a half may exceed what exact_sum holds
    const std::int64_t total = Products(block + digits_at(rows, size), rows, size, scratch + kOwn).total(r, j);
    std::int64_t count = 0;
    terms[count++] = static_cast<double>(total >> 32) * 0x1p32 * unit;
    terms[count++] = static_cast<double>(total & 0xFFFFFFFF) * unit;
    for (std::int64_t i = 0; i < own.rows[j].outside; ++i) {
      const DigitRow::Outside& outside = own.rows[j].list[i];
      terms[count++] = static_cast<double>(outside.value) *
                       block[outside.at / kChunk * rows * kStride + r * kStride + outside.at % kChunk];
    }
    for (std::int64_t i = 0; i < hidden.outside; ++i) {
      const DigitRow::Outside& outside = hidden.list[i];
      if (own.rows[j].lists(outside.at)) continue;
      terms[count++] = static_cast<double>(outside.value) * element(tile, j, outside.at);
    }
    return count;
  }

  static std::int64_t multiply_adds(std::int64_t steps) { return Products::multiply_adds(steps); }

 private:
  static constexpr auto kRowSize = static_cast<std::int64_t>(sizeof(DigitRow) / sizeof(double));
  static constexpr std::int64_t kHeader = 8;  // doubles of a scratch that no sums write to
  static constexpr std::int64_t kLanes = 16;
  // Where the scratch of Products is, behind this one's.
  static constexpr std::int64_t kOwn = kHeader + SeenRows::kColumns * kTile + kTile * kRowSize;

  // A prepared block: that of Panel, that of Products, the rows. Where it holds them, in doubles:
  static std::int64_t digits_at(std::int64_t rows, std::int64_t size) { return Panel::block_size(rows, size); }
  static std::int64_t rows_at(std::int64_t rows, std::int64_t size) {
    return digits_at(rows, size) + Products::hidden_size(rows, size);
  }
  static const DigitRow* hidden_rows(const double* block, std::int64_t rows, std::int64_t size) {
    return reinterpret_cast<const DigitRow*>(block + rows_at(rows, size));
  }

  // Whether all rows have digits, and the most elements outside in one.
  static bool all_fit(const DigitRow* hidden, std::int64_t count, std::int64_t& outside) {
    for (std::int64_t r = 0; r < count; ++r) {
      if (!hidden[r].fits) return false;
      outside = std::max(outside, hidden[r].outside);
    }
    return true;
  }

  struct Scratch {
    explicit Scratch(double* scratch)
        : fit(reinterpret_cast<bool*>(scratch)),
          columns(scratch + kHeader),
          rows(reinterpret_cast<DigitRow*>(scratch + kHeader + SeenRows::kColumns * kTile)) {}

    bool* fit;  // whether the tile was multiplied by digits
    double* columns;
    DigitRow* rows;  // of the weight
  };

  // Weight elements outside times the hidden elements inside, which sixteen rows' digits hold side by side, where the
  // rows themselves are a cache miss each.
  static void add_outside_weight(const Products& products, const double* block, std::int64_t rows,
                                 const WeightTile& tile, const Scratch& own, double* sums) {
    alignas(64) double units[static_cast<std::size_t>(kBlockRows + kLanes)] = {};
    const DigitRow* hidden = hidden_rows(block, rows, tile.weight->cols);
    for (std::int64_t r = 0; r < rows; ++r) units[r] = hidden[r].unit;
    for (std::int64_t j = 0; j < tile.count; ++j) {
      for (std::int64_t i = 0; i < own.rows[j].outside; ++i) {
        const DigitRow::Outside& outside = own.rows[j].list[i];
        const auto w = static_cast<double>(outside.value);
        if (!std::isfinite(w)) {  // times the 0 that stands for an element outside it would be NaN
          const double* h = block + outside.at / kChunk * rows * kStride + outside.at % kChunk;
          for (std::int64_t r = 0; r < rows; ++r) sums[r * kTile + j] += h[r * kStride] * w;
          continue;
        }
        for (std::int64_t r = 0; r < rows; r += kLanes) {
          const __m512i column = products.hidden_column(r / kLanes, outside.at);
          const __m512d factor = _mm512_set1_pd(w);
          const __m512d low = _mm512_mul_pd(_mm512_cvtepi32_pd(_mm512_castsi512_si256(column)), factor);
          const __m512d high = _mm512_mul_pd(_mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(column, 1)), factor);
          alignas(64) double terms[static_cast<std::size_t>(kLanes)];
          _mm512_store_pd(terms, _mm512_mul_pd(low, _mm512_load_pd(units + r)));
          _mm512_store_pd(terms + 8, _mm512_mul_pd(high, _mm512_load_pd(units + r + 8)));
          for (std::int64_t lane = 0; lane < std::min(kLanes, rows - r); ++lane) {
            sums[(r + lane) * kTile + j] += terms[lane];
          }
        }
      }
    }
  }

  // Hidden elements outside times all weight elements.
  static void add_outside_hidden(const DigitRow* hidden, std::int64_t rows, const WeightTile& tile,
                                 const SeenRows& seen, double* sums) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < hidden[r].outside; ++i) {
        const DigitRow::Outside& outside = hidden[r].list[i];
        const auto h = static_cast<double>(outside.value);
        const double* column = seen.column(outside.at);
        for (std::int64_t j = 0; column != nullptr && j < tile.count; ++j) sums[r * kTile + j] += h * column[j];
        for (std::int64_t j = 0; column == nullptr && j < tile.count; ++j) {
          sums[r * kTile + j] += h * element(tile, j, outside.at);
        }
      }
    }
  }

  static double element(const WeightTile& tile, std::int64_t j, std::int64_t at) {
    return static_cast<double>(
        exact::load_element(exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, at));
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
