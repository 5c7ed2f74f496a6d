// One row of given logits, read in tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "exact/element.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/transforms.hpp"

namespace isologit::detail::given {

constexpr std::int64_t kTile = kernels::kMostTile;

// `count` elements from `first` on of a row, as f32.
void copy_row(const MatrixView& logits, std::int64_t row, std::int64_t first, std::int64_t count, float* to);

class GivenRow {
 public:
  GivenRow(const MatrixView& logits, std::span<const float> temperatures, std::int64_t row)
      : logits_(logits), row_(row), temperature_(tiles::temperature_of(temperatures, row)) {}

  float temperature() const { return temperature_; }
  std::int64_t vocab() const { return logits_.cols; }
  std::int64_t tiles() const { return (logits_.cols + kTile - 1) / kTile; }

  // visit(z, count, first) for tiles [begin, end): logits after temperature, of ids [first, first + count), with -inf
  // to kTile; where they are f32 already, those of the caller.
  template <class Visit>
  void for_each_tile(std::int64_t begin, std::int64_t end, Visit visit) const {
    alignas(64) float copy[kTile];
    const auto* given = static_cast<const float*>(exact::row_data(logits_, row_));
    const bool in_place = temperature_ == 1 && logits_.dtype == DType::f32 &&
                          reinterpret_cast<std::uintptr_t>(given) % alignof(float) == 0;
    for (std::int64_t first = begin * kTile; first < std::min(end * kTile, logits_.cols); first += kTile) {
      const std::int64_t count = std::min(kTile, logits_.cols - first);
      if (in_place && count == kTile) {
        visit(given + first, count, first);
        continue;
      }
      copy_row(logits_, row_, first, count, copy);
      std::fill(copy + count, copy + kTile, -std::numeric_limits<float>::infinity());
      tiles::apply_temperature(temperature_, copy, kTile);
      visit(copy, count, first);
    }
  }

  float logit(std::int64_t id) const {
    float z[kernels::kLaneGroup] = {};
    copy_row(logits_, row_, id, 1, z);
    tiles::apply_temperature(temperature_, z, kernels::kLaneGroup);
    return z[0];
  }

 private:
  const MatrixView& logits_;
  std::int64_t row_;
  float temperature_;
};

}  // namespace isologit::detail::given
