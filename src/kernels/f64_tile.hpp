// Tiles of exact logits by certified f64 accumulation; included by one file per instruction set, which supplies `Sums`:
// Panel (kernels/panel.hpp) of doubles or what is used like it.
//
// Why it is right. A product of two elements has at most 48 significant bits and an exponent in [-298, 255]: it is
// exact in f64, with or without fma. Let p_1..p_n be the products and s their real sum. A sum in which no term passes
// through more than D additions satisfies |computed - s| <= gamma_D * sum |p_i|, gamma_D = D u / (1 - D u), u = 2^-53
// (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2), and sum |p_i| <= (sum |h_i|) max
// |w_i|. If computed - E and computed + E round to the same f32, where E exceeds that bound and the errors of computing
// the two ends, then s rounds to it too, rounding being monotone. If not, the few exact shares of the sum that `Sums`
// may hold are added up (exact_terms). Else the sum may still be exact: with u_h and u_w the lowest set bits of the two
// rows, every partial sum is a multiple of u_h u_w and at most (sum |h_i|) max |w_i|; where that spans no more than 53
// bits nothing was ever rounded. (So a sum of short numbers may lie on a midpoint, as happens in one of some hundred
// logits of bf16.) Otherwise the logit is settled by exact accumulation, by two-sums where two doubles hold it
// (whole_sum), else in fixed point. If any product is infinite or NaN, so is the bound of the error, and the rounding
// test leaves the logit to `settle`; no sum of finite products overflows f64.
//
// A low-rank addition (kernels/low_rank.hpp) brings terms b u, and RN64(u) in u's place: a rounding more on their way,
// and another for the product, which is not exact here. So D grows by the number of factors and two, and the reach by
// (sum |near|) max |b|. What they lose below f64's normal range is less than 2^-900 in all: only next to a boundary
// between two roundings could that matter, where the reach is at least 2^-151 and the excess of gamma in E covers it.
// Sums of short numbers are exact as above, u dividing into units of its own: one that its near rounds spans too many.
//
// Floor: N = 1 reads the weight once (2 bytes an element of bf16); N large needs N V H fused multiply-adds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "exact/rounding.hpp"
#include "exact/two_sum.hpp"
#include "kernels/low_rank_tile.hpp"
#include "kernels/magnitude.hpp"
#include "kernels/panel.hpp"

namespace isologit::detail::kernels {
namespace {

// An upper bound of the sum of |elements|: n < 2^40 additions lose less than 2^-12 of it.
inline double l1_bound(const void* row, DType dtype, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += std::fabs(static_cast<double>(exact::load_element(row, dtype, i)));
  return sum * (1 + 0x1p-11);
}

// The `see` of sums (kernels/panel.hpp).
struct Magnitudes {
  template <DType kDType>
  void operator()(std::int64_t j, const char* from, std::int64_t count) {
    rows[j].see<kDType>(from, count);
  }
  GreatestMagnitude rows[kTile];
};

// A prepared block: per row the bound of the sum of magnitudes and the lowest set bit, then the rows as doubles.
template <class Sums>
class F64Target : public Target {
 public:
  using Target::Target;

  static constexpr TileShape kShape{Sums::kBlockRows, kTile};

  std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) const final {
    return static_cast<std::size_t>(header(rows) + Sums::block_size(rows, size)) * sizeof(double);
  }
  std::size_t scratch_bytes(std::int64_t rows, std::int64_t size) const final {
    return static_cast<std::size_t>(kTile * rows + 2 * kTile + Sums::scratch_size(rows, size)) * sizeof(double);
  }

  void prepare(const MatrixView& hidden, std::int64_t row, std::int64_t index, std::int64_t rows,
               void* prepared) const final {
    auto* bounds = static_cast<double*>(prepared);
    const void* elements = exact::row_data(hidden, row);
    bounds[index] = l1_bound(elements, hidden.dtype, hidden.cols);
    bounds[rows + index] = lowest_bit(elements, hidden.dtype, hidden.cols);
    Sums::prepare(elements, hidden.dtype, hidden.cols, index, rows, bounds + header(rows));
  }

  void logits(const Block& block, const WeightTile& tile, float* logits, void* scratch, Counts& counts) const final {
    auto* sums = static_cast<double*>(scratch);
    double* greatest = sums + kTile * block.rows;
    double* units = greatest + kTile;
    Magnitudes magnitudes;
    std::int64_t depth = Sums::sums(static_cast<const double*>(block.prepared) + header(block.rows), block.rows, tile,
                                    sums, units + kTile, magnitudes);
    for (std::int64_t j = 0; j < tile.count; ++j) {
      greatest[j] = magnitudes.rows[j].of(tile.weight->dtype);
      units[j] = 0;
    }
    double greatest_b[kTile] = {};
    if (block.low_rank != nullptr) {
      add_low_rank(block, tile, sums);
      depth += tile.b->cols + 2;
      for (std::int64_t j = 0; j < tile.count; ++j) {
        greatest_b[j] = greatest_of(exact::row_data(*tile.b, tile.first + j), tile.b->dtype, tile.b->cols);
      }
    }
    round(block, tile, {sums, greatest, greatest_b, units, depth}, logits, counts);
  }

  std::int64_t multiply_adds(std::int64_t steps) const final { return Sums::multiply_adds(steps); }

 private:
  static std::int64_t header(std::int64_t rows) { return (2 * rows + 7) / 8 * 8; }

  // Of a tile: the sums, per weight row its greatest magnitude and that of its row of b, and its lowest set bit, 0
  // while unknown; D of the sums.
  struct Tile {
    const double* sums;
    const double* greatest;
    const double* greatest_b;
    double* units;
    std::int64_t depth;
  };

  static double bias_of(const WeightTile& tile, std::int64_t j) {
    if (tile.bias->data == nullptr) return 0;
    return static_cast<double>(exact::load_element(tile.bias->data, tile.bias->dtype, tile.first + j));
  }

  void round(const Block& block, const WeightTile& tile, const Tile& x, float* logits, Counts& counts) const {
    // One more for the bias.
    const auto depth = static_cast<double>(x.depth + 1);
    const double gamma = depth * 0x1p-53 * (1 + 0x1p-10);  // covers 1/(1 - D u) and the roundings of E, D < 2^40
    const auto* magnitudes = static_cast<const double*>(block.prepared);
    double biases[kTile];
    for (std::int64_t j = 0; j < tile.count; ++j) biases[j] = bias_of(tile, j);
    // Element by element, so that compilers make vectors of it.
    const auto reach_of = [&](std::int64_t r, std::int64_t j, double low_rank) {
      // No partial sum is larger.
      return magnitudes[r] * x.greatest[j] + std::fabs(biases[j]) + low_rank * x.greatest_b[j];
    };
    for (std::int64_t r = 0; r < block.rows; ++r) {
      const double low_rank = block.low_rank == nullptr ? 0 : block.low_rank[r].reach;
      const double* sums = x.sums + r * kTile;
      float* low = logits + r * kTile;
      float high[kTile];
      for (std::int64_t j = 0; j < tile.count; ++j) {
        const double sum = sums[j] + biases[j];
        // The latter for rounding the two ends.
        const double error = gamma * reach_of(r, j, low_rank) + std::fabs(sum) * 0x1p-52;
        low[j] = static_cast<float>(sum - error) + 0.0F;  // -0 becomes +0
        high[j] = static_cast<float>(sum + error);
      }
      std::int32_t open = 0;
      for (std::int64_t j = 0; j < tile.count; ++j) open |= low[j] == high[j] ? 0 : 1;
      if (open == 0) continue;
      for (std::int64_t j = 0; j < tile.count; ++j) {
        if (low[j] == high[j]) continue;
        const double bias = biases[j];
        low[j] =
            settle(block, r, tile, j, {sums[j] + bias, reach_of(r, j, low_rank), bias, x.greatest[j], x.units + kTile},
                   x.units[j], counts);
      }
    }
  }

  struct Unsettled {
    double sum;
    double reach;
    double bias;
    double greatest;  // magnitude of the weight row
    double* scratch;  // as Sums left it
  };

  // A logit that the rounding test left open.
  float settle(const Block& block, std::int64_t r, const WeightTile& tile, std::int64_t j, const Unsettled& x,
               double& weight_unit, Counts& counts) const {
    // An infinite near may stand for a number, and 0 for one that vanished, which matters against an infinite b.
    if (block.low_rank != nullptr && !std::isfinite(x.reach)) {
      return std::isnan(block.low_rank[r].reach) ? exact::quiet_nan() : exact_logit(block, r, tile, j);
    }
    if (std::isnan(x.reach) || std::isnan(x.sum)) return exact::quiet_nan();
    // What is not finite in a weight row the sums may not know, nor hidden NaN from inf.
    if (std::isinf(x.greatest)) return exact_logit(block, r, tile, j);
    if (std::isinf(x.sum)) return static_cast<float>(x.sum);
    // What `Sums` kept is added up sooner than the lowest bit of a weight row is found.
    double terms[Sums::kMostTerms + 1];
    const auto* prepared = static_cast<const double*>(block.prepared) + header(block.rows);
    const std::int64_t count =
        block.low_rank != nullptr ? 0 : Sums::exact_terms(prepared, block.rows, tile, r, j, x.scratch, terms);
    if (count > 0) {
      terms[count] = x.bias;
      return sum_of(terms, count + 1, counts);
    }
    if (weight_unit == 0) {
      weight_unit = lowest_bit(exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, tile.weight->cols);
    }
    const auto bias = static_cast<float>(x.bias);  // it was one
    const double bias_unit = lowest_bit(&bias, DType::f32, 1);
    const double hidden_unit = static_cast<const double*>(block.prepared)[block.rows + r];
    double unit = std::fmin(hidden_unit * weight_unit, bias_unit);
    if (block.low_rank != nullptr) {
      const double b_unit = lowest_bit(exact::row_data(*tile.b, tile.first + j), tile.b->dtype, tile.b->cols);
      unit = std::fmin(unit, block.low_rank[r].unit * b_unit);  // ignores a NaN, of a unit that vanished, against zeros
    }
    if (x.reach <= 0x1p53 * unit) return static_cast<float>(x.sum) + 0.0F;
    ++counts.fallbacks;
    const bool whole = x.reach * static_cast<double>(tile.weight->cols + 2 * kLanes) <= 0x1p105 * unit;
    if (block.low_rank != nullptr || !whole) return exact_logit(block, r, tile, j);
    return whole_sum(exact::row_data(*block.hidden, block.row_ids[r]), block.hidden->dtype,
                     exact::row_data(*tile.weight, tile.first + j), tile.weight->dtype, tile.weight->cols, x.bias);
  }

  static float sum_of(const double* terms, std::int64_t count, Counts& counts) {
    double sum = terms[0];
    for (std::int64_t i = 1; i < count; ++i) {
      const exact::TwoSum next = exact::two_sum(sum, terms[i]);
      if (next.low != 0) {
        ++counts.fallbacks;
        return exact_sum(terms, count);
      }
      sum = next.high;
    }
    return static_cast<float>(sum) + 0.0F;
  }

  static constexpr std::int64_t kLanes = 8;

  // The sum by two-sums in kLanes lanes, each holding in `low` what `high` rounded off. All of it are multiples of
  // u_h u_w, and no `low` is larger than (n + 2 kLanes) 2^-53 reach: where that is 2^52 of them at most, nothing was
  // lost.
  static float whole_sum(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype,
                         std::int64_t size, double bias) {
    using Lanes = double __attribute__((vector_size(8 * kLanes)));
    Lanes high = {bias};
    Lanes low = {};
    for (std::int64_t k = 0; k < size; k += kChunk) {
      alignas(64) double h[kChunk] = {};
      alignas(64) double w[kChunk] = {};
      const std::int64_t count = size - k < kChunk ? size - k : kChunk;
      to_doubles(hidden, hidden_dtype, k, count, h);
      to_doubles(weight, weight_dtype, k, count, w);
      for (std::int64_t i = 0; i < count; i += kLanes) {
        Lanes a;
        Lanes b;
        std::memcpy(&a, h + i, sizeof a);
        std::memcpy(&b, w + i, sizeof b);
        const Lanes product = a * b;
        const Lanes sum = high + product;
        const Lanes share = sum - high;
        low += (high - (sum - share)) + (product - share);
        high = sum;
      }
    }
    double sum = high[0];
    double rest = low[0];
    for (std::int64_t lane = 1; lane < kLanes; ++lane) {
      const exact::TwoSum next = exact::two_sum(sum, high[lane]);
      sum = next.high;
      rest += next.low + low[lane];
    }
    return static_cast<float>(exact::to_odd(sum, rest)) + 0.0F;
  }

  static void to_doubles(const void* row, DType dtype, std::int64_t first, std::int64_t count, double* to) {
    exact::with_dtype(dtype, [&]<DType kDType>() {
      for (std::int64_t i = 0; i < count; ++i) {
        to[i] = static_cast<double>(exact::load_element(row, kDType, first + i));
      }
    });
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
