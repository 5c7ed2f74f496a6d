// Packed operands of the gradient's matrix products (kernels/backward_loops.hpp) and the products of one piece of
// depth.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned.hpp"
#include "isologit/view.hpp"
#include "kernels/backward_loops.hpp"
#include "kernels/part_loops.hpp"

namespace isologit::detail::backward {

// The vocabulary in chunks, fixed by shape alone.
inline constexpr std::int64_t kChunk = 2 * kernels::kDepth;

inline std::int64_t chunks_of(std::int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

inline std::int64_t groups_of(std::int64_t rows) { return (rows + kernels::kGroupRows - 1) / kernels::kGroupRows; }

// The loops that make fast sums of parts of bf16 (kernels/part_loops.hpp) for a B of that type; null for f32 sums.
inline const kernels::PartLoops* parts_for(const kernels::PartLoops* parts, bool exact, DType dtype) {
  return exact || dtype != DType::bf16 ? nullptr : parts;
}

// Rows in whole groups, as they are packed.
std::int64_t padded_rows(std::int64_t rows, const kernels::PartLoops* parts);

// A piece of A: up to kDepth columns of any number of rows.
struct PackedRows {
  // part_loops: null to keep elements in f32; wide: to keep them in f64, for certified sums.
  PackedRows(std::int64_t most_rows, const kernels::PartLoops* part_loops, bool wide);

  // Element (row, k) is from[row * row_step + k * depth_step], one of the steps being 1; `multiply` may read them
  // again.
  void pack(const float* from, std::int64_t row_step, std::int64_t depth_step, std::int64_t row_count,
            std::int64_t depth_count);

  // Brings rows so great or small that their products might leave f32's range (derivatives of tokens that are next to
  // impossible) to [1, 2) by a power of two. For `multiply`; others take the elements as they are. Parts always are.
  void scale();

  template <class Element>
  const Element* group(std::int64_t g) const {
    return groups.as<Element>() + g * kernels::kGroupRows * kernels::kDepth;
  }

  const kernels::PartLoops* parts;
  bool wide;
  std::int64_t rows = 0;
  std::int64_t depth = 0;
  const float* source = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t depth_stride = 0;
  base::AlignedBuffer groups;
  std::vector<float> greatest;  // magnitude in each row, NaN where there is one or where scaling loses an element; of
                                // parts where a row is not finite
  std::vector<double> unit;     // the power of two that a row's elements count in, 1 unless scaled

 private:
  template <class Element>
  void pack_groups();
};

// One panel of a piece of B.
struct PackedPanel {
  const float* elements;  // parts: a panel of kernels/part_loops.hpp
  float greatest;         // parts: NaN unless it is plain
  std::int64_t columns;
};

// Packs `count` elements of each of `depth` rows as a panel of f32 or of parts, and returns its `greatest`.
float pack_panel(const kernels::BackwardLoops& kernels, const kernels::PartLoops* parts, const void* const* rows,
                 DType dtype, std::int64_t depth, std::int64_t count, float* panel);

// c[row * stride + column] += A B, in f32 within the piece and f64 beyond it, where A is scaled. Each row's result
// depends on that row alone. The products of the piece are within kDepth 2^-24 of sum |a||b|, as long as the
// greatest |a| |b| of row and panel lies in [2^-120, 2^118]; outside that range they are summed in f64. Those of parts
// keep the bound of kernels/part_loops.hpp; where it does not hold they are summed in f64 too.
void multiply(const kernels::BackwardLoops& kernels, const PackedRows& left, const PackedPanel& panel, double* c,
              std::int64_t stride);

// high + low += A B by certified sums, A wide and the panel packed by pack_wide: chains of a piece's depth in f64, each
// added by two-sum.
void multiply_wide(const kernels::BackwardLoops& kernels, const PackedRows& left, const double* panel,
                   std::int64_t columns, double* high, double* low, std::int64_t stride);

// A bound of the error of `terms` numbers summed by two-sum, whose magnitudes add up to at most `reach`. With n terms
// and u = 2^-53, `low` is at most n u reach (1 + small), and each of the n additions to it rounds by u of that; the
// factor 2 covers the rest.
inline double two_sum_error(std::int64_t terms, double reach) {
  const auto n = static_cast<double>(terms + 2);
  return n * n * 0x1p-105 * reach;
}

// A bound of the error of certified sums relative to their reach, a bound of the sum of |a||b|: a product is exact and
// its first addition is to 0, so it passes through less than `depth` roundings of a chain (Higham's gamma, 4.2, the
// factor covering 1 / (1 - depth u)), and the chains, no more than `terms` of them, are summed by two-sum.
inline double certified_error(std::int64_t depth, std::int64_t terms) {
  return static_cast<double>(depth - 1) * 0x1p-53 * (1 + 0x1p-10) + two_sum_error(terms, 1 + 0x1p-10);
}

// The sum of the squares of finite elements, within 2^-40 of it.
double sum_of_squares(const float* elements, std::int64_t count);

}  // namespace isologit::detail::backward
