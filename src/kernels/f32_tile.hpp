// Tiles of logits accumulated in f32 (CONTRACT.md 6), in the order of kernels/panel.hpp; included by one file per
// instruction set, which supplies `Sums`: Panel of floats or what is used like it.
//
// Error. With D roundings on the way of a term (Panel::depth and one for the bias), u = 2^-24 and real sum s,
// |z - s| <= gamma_D sum |h_i w_i| + |b| gamma_1 + H 2^-149, the last for products below the normal range (Higham,
// section 4.2). A low-rank addition's factors are rounded to f32 and add one to D each, and two. D is at most 133 + H /
// 256 for vectors of 4, less for wider ones: docs/kernels.md states the bound.
//
// Floor: N = 1 reads the weight once; N large needs N V H fused multiply-adds, twice as fast as those of f64.
#pragma once

#include <cmath>
#include <cstdint>

#include "exact/rounding.hpp"
#include "kernels/low_rank_tile.hpp"
#include "kernels/panel.hpp"

namespace isologit::detail::kernels {
namespace {

template <class Sums>
class F32Target : public Target {
 public:
  using Target::Target;

  static constexpr TileShape kShape{Sums::kBlockRows, kTile};

  std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) const final {
    return static_cast<std::size_t>(Sums::block_size(rows, size)) * sizeof(float);
  }
  std::size_t scratch_bytes(std::int64_t rows, std::int64_t size) const final {
    return static_cast<std::size_t>(kTile * rows + Sums::scratch_size(rows, size)) * sizeof(float);
  }
  void prepare(const MatrixView& hidden, std::int64_t row, std::int64_t index, std::int64_t rows,
               void* prepared) const final {
    Sums::prepare(exact::row_data(hidden, row), hidden.dtype, hidden.cols, index, rows, static_cast<float*>(prepared));
  }

  void logits(const Block& block, const WeightTile& tile, float* logits, void* scratch, Counts&) const final {
    auto* sums = static_cast<float*>(scratch);
    Sums::sums(static_cast<const float*>(block.prepared), block.rows, tile, sums, sums + kTile * block.rows,
               []<DType>(std::int64_t, const char*, std::int64_t) {});
    if (block.low_rank != nullptr) add_low_rank(block, tile, sums);
    float bias[kTile] = {};
    for (std::int64_t j = 0; tile.bias->data != nullptr && j < tile.count; ++j) {
      bias[j] = exact::load_element(tile.bias->data, tile.bias->dtype, tile.first + j);
    }
    for (std::int64_t r = 0; r < block.rows; ++r) {
      for (std::int64_t j = 0; j < tile.count; ++j) {
        const float sum = sums[r * kTile + j] + bias[j] + 0.0F;  // -0 becomes +0
        logits[r * kTile + j] = std::isnan(sum) ? exact::quiet_nan() : sum;
      }
    }
  }

  std::int64_t multiply_adds(std::int64_t steps) const final { return Sums::multiply_adds(steps); }
};

}  // namespace
}  // namespace isologit::detail::kernels
