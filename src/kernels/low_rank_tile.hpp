// The terms of a low-rank addition in a tile of sums, for every instruction set: sums[r * kTile + j] += b[j] · near[r],
// factor by factor, so that a term passes through at most two roundings and one a factor, and what was there before
// through one a factor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "exact/element.hpp"
#include "kernels/panel.hpp"

namespace isologit::detail::kernels {
namespace {

// Of b, transposed: a piece of its columns by the rows of a tile.
template <class Element>
struct LowRankPiece {
  static constexpr std::int64_t kMostColumns = 16;
  Element columns[kMostColumns][kTile];

  void widen(const WeightTile& tile, std::int64_t first, std::int64_t count) {
    exact::with_dtype(tile.b->dtype, [&]<DType kDType>() {
      for (std::int64_t j = 0; j < kTile; ++j) {
        const void* row = exact::row_data(*tile.b, tile.first + std::min(j, tile.count - 1));
        for (std::int64_t i = 0; i < count; ++i) {
          columns[i][j] = static_cast<Element>(exact::load_element(row, kDType, first + i));
        }
      }
    });
  }
};

template <class Element>
void add_low_rank(const Block& block, const WeightTile& tile, Element* sums) {
  using Piece = LowRankPiece<Element>;
  Piece piece;
  for (std::int64_t first = 0; first < tile.b->cols; first += Piece::kMostColumns) {
    const std::int64_t count = std::min(Piece::kMostColumns, tile.b->cols - first);
    piece.widen(tile, first, count);
    for (std::int64_t r = 0; r < block.rows; ++r) {
      const double* near = block.low_rank[r].near + first;
      Element* to = sums + r * kTile;
      for (std::int64_t i = 0; i < count; ++i) {
        const auto factor = static_cast<Element>(near[i]);
        for (std::int64_t j = 0; j < kTile; ++j) to[j] += factor * piece.columns[i][j];
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::kernels
