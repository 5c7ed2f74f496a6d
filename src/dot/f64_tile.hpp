// Tiles of exact logits by certified f64 accumulation; included by one file per instruction set, which supplies the
// vector type (`Vector`: V, kWidth, zero, load, fused or unfused multiply_add, sum, widen). Everything is in an unnamed
// namespace, so code compiled for one instruction set cannot be linked into another's.
//
// Why it is right. A product of two elements has at most 48 significant bits and an exponent in [-298, 255]: it is
// exact in f64, with or without fma. Let p_1..p_n be the products and s their real sum. A sum in which no term passes
// through more than D additions satisfies |computed - s| <= gamma_D * sum |p_i|, gamma_D = D u / (1 - D u), u = 2^-53
// (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2), and sum |p_i| <= |h| |w| (Cauchy and
// Schwarz, Euclidean norms). If computed - E and computed + E round to the same f32, where E exceeds that bound and the
// errors of computing the two ends, then s rounds to it too, rounding being monotone. If not, the sum may still be
// exact: with u_h and u_w the lowest set bits of the two rows, every partial sum is a multiple of u_h u_w and at most
// |h| |w|; where that spans no more than 53 bits nothing was ever rounded. (So a sum of short numbers may lie on a
// midpoint, as happens in one of some hundred logits of bf16.) Otherwise the logit is settled by exact accumulation. If
// any product is infinite or NaN, so is the computed sum, by the rules of CONTRACT.md 1: no sum of finite products
// overflows f64.
//
// Floor: N = 1 reads the weight once (2 bytes an element of bf16); N large needs N V H fused multiply-adds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "dot/dot.hpp"
#include "exact/element.hpp"
#include "exact/rounding.hpp"

namespace isologit::dot {
namespace {

constexpr std::int64_t kChunk = 256;          // elements of k between two additions to the running sum
constexpr std::int64_t kStride = kChunk + 8;  // keeps rows of a chunk out of one another's cache sets
constexpr std::int64_t kPanel = 8;            // weight rows widened together: 17 KB, stays in L1
constexpr std::int64_t kTile = 64;
constexpr std::int64_t kBlockRows = 120;  // hidden rows: one chunk of them is 253 KB, stays in L2

constexpr std::int64_t chunks_of(std::int64_t size) { return (size + kChunk - 1) / kChunk; }

// An upper bound of the Euclidean norm from the computed sum of squares: n < 2^40 additions of relative error u each,
// and a square root, lose less than 2^-12.
inline double norm_bound(double sum_of_squares) { return std::sqrt(sum_of_squares) * (1 + 0x1p-11); }

// Element range [k, k + count) of a row as doubles, followed by zeros to the end of the chunk; adds their squares.
template <class Vector>
void widen_chunk(const void* row, DType dtype, std::int64_t k, std::int64_t count, double* chunk, double& squares) {
  const char* from = static_cast<const char*>(row) + k * static_cast<std::int64_t>(dtype_size(dtype));
  Vector::widen(from, dtype, count, chunk);
  for (std::int64_t i = count; i < kChunk; ++i) chunk[i] = 0;
  typename Vector::V sum0 = Vector::zero();
  typename Vector::V sum1 = Vector::zero();
  for (std::int64_t i = 0; i < kChunk; i += 2 * Vector::kWidth) {
    const auto a = Vector::load(chunk + i);
    const auto b = Vector::load(chunk + i + Vector::kWidth);
    sum0 = Vector::multiply_add(a, a, sum0);
    sum1 = Vector::multiply_add(b, b, sum1);
  }
  squares += Vector::sum(sum0) + Vector::sum(sum1);
}

// sums[j * rows + r] += dot(weight row j, hidden row r) over one chunk, for kW weight rows and kH hidden rows.
template <class Vector, std::size_t kW, std::size_t kH>
inline void multiply_panel(const double* weight, const double* hidden, double* sums, std::int64_t rows) {
  typename Vector::V accumulators[kW][kH];
  for (std::size_t j = 0; j < kW; ++j) {
    for (std::size_t r = 0; r < kH; ++r) accumulators[j][r] = Vector::zero();
  }
  for (std::int64_t k = 0; k < kChunk; k += Vector::kWidth) {
    typename Vector::V h[kH];
    for (std::size_t r = 0; r < kH; ++r) h[r] = Vector::load(hidden + static_cast<std::int64_t>(r) * kStride + k);
    for (std::size_t j = 0; j < kW; ++j) {
      const auto w = Vector::load(weight + static_cast<std::int64_t>(j) * kStride + k);
      for (std::size_t r = 0; r < kH; ++r) accumulators[j][r] = Vector::multiply_add(w, h[r], accumulators[j][r]);
    }
  }
  for (std::size_t j = 0; j < kW; ++j) {
    for (std::size_t r = 0; r < kH; ++r)
      sums[static_cast<std::int64_t>(j) * rows + static_cast<std::int64_t>(r)] += Vector::sum(accumulators[j][r]);
  }
}

// One chunk of a panel of kPanel weight rows against all rows of the block.
template <class Vector>
void multiply_chunk(const double* weight, const double* hidden, std::int64_t rows, double* sums) {
  std::int64_t r = 0;
  for (; r + 3 <= rows; r += 3) {
    multiply_panel<Vector, 4, 3>(weight, hidden + r * kStride, sums + r, rows);
    multiply_panel<Vector, 4, 3>(weight + 4 * kStride, hidden + r * kStride, sums + 4 * rows + r, rows);
  }
  if (rows - r == 2) {
    multiply_panel<Vector, 4, 2>(weight, hidden + r * kStride, sums + r, rows);
    multiply_panel<Vector, 4, 2>(weight + 4 * kStride, hidden + r * kStride, sums + 4 * rows + r, rows);
  } else if (rows - r == 1) {
    multiply_panel<Vector, 8, 1>(weight, hidden + r * kStride, sums + r, rows);
  }
}

// The least of the lowest set bits of `count` doubles, +inf when all are 0. Written for integer lanes.
inline double lowest_bit(const double* values, std::int64_t count) {
  std::int64_t least = std::bit_cast<std::int64_t>(std::numeric_limits<double>::infinity());
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::int64_t>(values[i]);
    // Clearing the lowest set bit of the significand leaves a number below; the difference is exact.
    const std::int64_t cleared = (bits & 0xFFFFFFFFFFFFF) != 0 ? bits & (bits - 1) : 0;
    const std::int64_t bit = std::bit_cast<std::int64_t>(std::fabs(values[i] - std::bit_cast<double>(cleared)));
    least = bit != 0 && bit < least ? bit : least;
  }
  return std::bit_cast<double>(least);
}

// A prepared block: per row the bound of its norm and its lowest set bit, then chunk by chunk the rows as doubles.
struct Prepared {
  static std::int64_t header(std::int64_t rows) { return (2 * rows + 7) / 8 * 8; }
  static std::size_t bytes(std::int64_t rows, std::int64_t size) {
    return static_cast<std::size_t>(header(rows) + chunks_of(size) * rows * kStride) * sizeof(double);
  }
};

template <class Vector>
class F64Kernel : public Kernel {
 public:
  std::int64_t block_rows() const final { return kBlockRows; }
  std::int64_t tile_vocab() const final { return kTile; }
  std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) const final { return Prepared::bytes(rows, size); }
  std::size_t scratch_bytes(std::int64_t rows, std::int64_t) const final {
    return static_cast<std::size_t>(kPanel * kStride + kTile * rows + 2 * kTile) * sizeof(double);
  }

  void prepare(const MatrixView& hidden, std::int64_t row, std::int64_t index, std::int64_t rows,
               void* prepared) const final {
    auto* norms = static_cast<double*>(prepared);
    double* chunk = norms + Prepared::header(rows) + index * kStride;
    double squares = 0;
    double lowest = std::numeric_limits<double>::infinity();
    for (std::int64_t k = 0; k < hidden.cols; k += kChunk, chunk += rows * kStride) {
      const std::int64_t count = hidden.cols - k < kChunk ? hidden.cols - k : kChunk;
      widen_chunk<Vector>(exact::row_data(hidden, row), hidden.dtype, k, count, chunk, squares);
      lowest = std::fmin(lowest, lowest_bit(chunk, count));
    }
    norms[index] = norm_bound(squares);
    norms[rows + index] = lowest;
  }

  void logits(const Block& block, const WeightTile& tile, float* logits, void* scratch, Counts& counts) const final {
    auto* panel = static_cast<double*>(scratch);
    double* sums = panel + kPanel * kStride;
    double* squares = sums + kTile * block.rows;
    std::memset(sums, 0, static_cast<std::size_t>(kTile * block.rows + 2 * kTile) * sizeof(double));
    const std::int64_t chunks = chunks_of(block.hidden->cols);
    // Few rows: whole weight rows in turn, which the memory prefetcher follows. Many rows: one chunk of the hidden
    // block at a time, so that it stays in L2 while all panels of the tile pass.
    const std::int64_t step = block.rows <= 8 ? chunks : 1;
    for (std::int64_t c = 0; c < chunks; c += step) {
      for (std::int64_t j = 0; j < tile.count; j += kPanel) {
        for (std::int64_t i = c; i < c + step; ++i) add_chunk(block, tile, i, j, panel, sums, squares);
      }
    }
    round(block, tile, panel, sums, squares, logits, counts);
  }

 private:
  void add_chunk(const Block& block, const WeightTile& tile, std::int64_t chunk, std::int64_t j, double* panel,
                 double* sums, double* squares) const {
    const std::int64_t k = chunk * kChunk;
    const std::int64_t size = block.hidden->cols;
    const std::int64_t count = size - k < kChunk ? size - k : kChunk;
    const std::int64_t panel_rows = tile.count - j < kPanel ? tile.count - j : kPanel;
    for (std::int64_t i = 0; i < panel_rows; ++i) {
      const void* row = exact::row_data(*tile.weight, tile.first + j + i);
      widen_chunk<Vector>(row, tile.weight->dtype, k, count, panel + i * kStride, squares[j + i]);
    }
    // Rows past the tile's end are computed from whatever the panel holds and never read.
    for (std::int64_t i = panel_rows * kStride; panel_rows < kPanel && i < kPanel * kStride; ++i) panel[i] = 0;
    const auto* norms = static_cast<const double*>(block.prepared);
    const double* hidden = norms + Prepared::header(block.rows) + chunk * block.rows * kStride;
    multiply_chunk<Vector>(panel, hidden, block.rows, sums + j * block.rows);
  }

  void round(const Block& block, const WeightTile& tile, double* panel, const double* sums, double* squares,
             float* logits, Counts& counts) const {
    // The longest chain: the steps of one accumulator, its horizontal sum, one addition per chunk, the bias.
    const auto depth =
        static_cast<double>(kChunk / Vector::kWidth + Vector::kWidth + chunks_of(block.hidden->cols) + 1);
    const double gamma = depth * 0x1p-53 * (1 + 0x1p-10);  // covers 1/(1 - D u) and the roundings of E, D < 2^40
    const auto* norms = static_cast<const double*>(block.prepared);
    for (std::int64_t j = 0; j < tile.count; ++j) {
      const double bias =
          tile.bias->data == nullptr
              ? 0.0
              : static_cast<double>(exact::load_element(tile.bias->data, tile.bias->dtype, tile.first + j));
      const double weight_norm = norm_bound(squares[j]);
      for (std::int64_t r = 0; r < block.rows; ++r) {
        const double sum = sums[j * block.rows + r] + bias;
        const double reach = norms[r] * weight_norm + std::fabs(bias);  // no partial sum is larger
        const double error = gamma * reach + std::fabs(sum) * 0x1p-52;  // the latter for rounding the two ends
        const auto low = static_cast<float>(sum - error);
        const auto high = static_cast<float>(sum + error);
        float logit = low + 0.0F;  // -0 becomes +0
        if (!(low == high)) logit = settle(block, r, tile, j, {sum, reach, bias}, panel, squares[kTile + j], counts);
        logits[r * kTile + j] = logit;
      }
    }
  }

  struct Unsettled {
    double sum;
    double reach;
    double bias;
  };

  // A logit that the rounding test left open. weight_unit caches the weight row's lowest set bit, 0 while unknown.
  float settle(const Block& block, std::int64_t r, const WeightTile& tile, std::int64_t j, const Unsettled& x,
               double* chunk, double& weight_unit, Counts& counts) const {
    if (std::isnan(x.sum)) return exact::quiet_nan();
    if (std::isinf(x.sum)) return static_cast<float>(x.sum);
    if (weight_unit == 0) weight_unit = lowest_bit_of_row(*tile.weight, tile.first + j, chunk);
    const double hidden_unit = static_cast<const double*>(block.prepared)[block.rows + r];
    const double unit = std::fmin(hidden_unit * weight_unit, lowest_bit(&x.bias, 1));
    if (x.reach <= 0x1p53 * unit) return static_cast<float>(x.sum) + 0.0F;
    ++counts.fallbacks;
    return exact_logit(block, r, tile, j);
  }

  static double lowest_bit_of_row(const MatrixView& weight, std::int64_t row, double* chunk) {
    double lowest = std::numeric_limits<double>::infinity();
    double squares = 0;
    for (std::int64_t k = 0; k < weight.cols; k += kChunk) {
      const std::int64_t count = weight.cols - k < kChunk ? weight.cols - k : kChunk;
      widen_chunk<Vector>(exact::row_data(weight, row), weight.dtype, k, count, chunk, squares);
      lowest = std::fmin(lowest, lowest_bit(chunk, count));
    }
    return lowest;
  }
};

}  // namespace
}  // namespace isologit::dot
