// Packed operands of the gradient's matrix products (kernels/backward_loops.hpp) and the products of one piece of
// depth.
#pragma once

#include <cstdint>
#include <vector>

#include "isologit/view.hpp"
#include "kernels/backward_loops.hpp"

namespace isologit::detail::backward {

// The vocabulary in chunks, fixed by shape alone.
inline constexpr std::int64_t kChunk = 2 * kernels::kDepth;

inline std::int64_t chunks_of(std::int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

inline std::int64_t groups_of(std::int64_t rows) { return (rows + kernels::kGroupRows - 1) / kernels::kGroupRows; }

// A piece of A: up to kDepth columns of any number of rows.
struct PackedRows {
  explicit PackedRows(std::int64_t most_rows)
      : groups(static_cast<std::size_t>(groups_of(most_rows) * kernels::kGroupRows * kernels::kDepth)),
        greatest(static_cast<std::size_t>(groups_of(most_rows) * kernels::kGroupRows)),
        unit(static_cast<std::size_t>(groups_of(most_rows) * kernels::kGroupRows), 1.0) {}

  // Element (row, k) is from[row * row_stride + k * depth_stride].
  void pack(const float* from, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t row_count,
            std::int64_t depth_count);

  // Brings rows so great or small that their products might leave f32's range (derivatives of tokens that are next to
  // impossible) to [1, 2) by a power of two. For `multiply`; others take the elements as they are.
  void scale();

  const float* group(std::int64_t g) const { return groups.data() + g * kernels::kGroupRows * kernels::kDepth; }

  std::int64_t rows = 0;
  std::int64_t depth = 0;
  std::vector<float> groups;
  std::vector<float> greatest;  // magnitude in each row, NaN where there is one
  std::vector<double> unit;     // the power of two that a row's elements count in, 1 unless scaled
};

// One panel of a piece of B.
struct PackedPanel {
  const float* elements;
  float greatest;
  std::int64_t columns;
};

// c[row * stride + column] += A B, in f32 within the piece and f64 beyond it, where A is scaled. Each row's result
// depends on that row alone. The products of the piece are within kDepth 2^-24 of sum |a||b|, as long as the
// greatest |a| |b| of row and panel lies in [2^-120, 2^118]; outside that range they are summed in f64.
void multiply(const kernels::BackwardLoops& kernels, const PackedRows& left, const PackedPanel& panel, double* c,
              std::int64_t stride);

// A bound of the error of `terms` products summed by two-sum, whose magnitudes add up to at most `reach`. With n terms
// and u = 2^-53, `low` is at most n u reach (1 + small), and each of the n additions to it rounds by u of that; the
// factor 2 covers the rest.
inline double two_sum_error(std::int64_t terms, double reach) {
  const auto n = static_cast<double>(terms + 2);
  return n * n * 0x1p-105 * reach;
}

}  // namespace isologit::detail::backward
