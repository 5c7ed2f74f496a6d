// Packed operands of the gradient's matrix products (backward/kernels.hpp) and the products of one piece of depth.
#pragma once

#include <cstdint>
#include <vector>

#include "backward/kernels.hpp"
#include "exact/superaccumulator.hpp"
#include "isologit/view.hpp"

namespace isologit::gradient {

inline std::int64_t groups_of(std::int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// A piece of A: up to kDepth columns of any number of rows.
struct Left {
  explicit Left(std::int64_t most_rows)
      : groups(static_cast<std::size_t>(groups_of(most_rows) * kBlockRows * kDepth)),
        greatest(static_cast<std::size_t>(groups_of(most_rows) * kBlockRows)),
        unit(static_cast<std::size_t>(groups_of(most_rows) * kBlockRows), 1.0) {}

  // Element (row, k) is from[row * row_stride + k * depth_stride].
  void pack(const float* from, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t row_count,
            std::int64_t depth_count);

  // Brings rows so great or small that their products might leave f32's range (derivatives of tokens that are next to
  // impossible) to [1, 2) by a power of two. For `multiply`; others take the elements as they are.
  void scale();

  const float* group(std::int64_t g) const { return groups.data() + g * kBlockRows * kDepth; }

  std::int64_t rows = 0;
  std::int64_t depth = 0;
  std::vector<float> groups;
  std::vector<float> greatest;  // magnitude in each row, NaN where there is one
  std::vector<double> unit;     // the power of two that a row's elements count in, 1 unless scaled
};

// One panel of a piece of B.
struct Panel {
  const float* elements;
  float greatest;
  std::int64_t columns;
};

// c[row * stride + column] += A B, in f32 within the piece and f64 beyond it, where A is scaled. Each row's result
// depends on that row alone. The products of the piece are within kDepth 2^-24 of sum |a||b|, as long as the greatest
// |a| |b| of row and panel lies in [2^-120, 2^118]; outside that range they are summed in f64.
void multiply(const Kernels& kernels, const Left& left, const Panel& panel, double* c, std::int64_t stride);

// The sum of exact products and of what they are added to, by the rules of CONTRACT.md 1.
class ExactSum {
 public:
  void add(double term);
  // Rounded once; exact as a double.
  double round(DType dtype);

 private:
  exact::Superaccumulator sum_;
  double special_ = 0;
};

// A bound of the error of `terms` products summed by two-sum, whose magnitudes add up to at most `reach`. With n terms
// and u = 2^-53, `low` is at most n u reach (1 + small), and each of the n additions to it rounds by u of that; the
// factor 2 covers the rest.
inline double two_sum_error(std::int64_t terms, double reach) {
  const auto n = static_cast<double>(terms + 2);
  return n * n * 0x1p-105 * reach;
}

}  // namespace isologit::gradient
