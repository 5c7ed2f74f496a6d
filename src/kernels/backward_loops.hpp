// The loops of the gradient that are worth vector instructions, one table per instruction set: derivatives of logits,
// and small matrix products over packed operands.
//
// A product C += A B is made piece by piece along its depth, kDepth terms at a time. Of a piece, A is packed as groups
// of kGroupRows rows, [k][row], and B as panels of `columns` columns, [k][column]; rows and columns past the end are 0.
#pragma once

#include <cstdint>

#include "isologit/view.hpp"

namespace isologit::detail::kernels {

constexpr std::int64_t kDepth = 128;
constexpr std::int64_t kGroupRows = 6;
constexpr std::int64_t kMostColumns = 32;  // of a panel, in any table
constexpr std::int64_t kEnclosed = 8;      // doubles in a register, at most

// The numbers behind one row's dz in f64. With d = top - z >= 0 and p = e^-d / total,
//   dz = factor * sigma(z0) * (mean + p * (b + c (d - mean_gap)))
// for ids that are no targets; sigma = 1 - tanh^2(z0 / softcap), z0 being what the softcap is given. See
// backward/derivative.hpp.
struct DzRow {
  double top = 0;
  double inverse_total = 0;
  double mass = 0;   // epsilon
  double error = 0;  // bound of the relative errors of mass and total, and of mean_gap beside its own
  double mean_gap = 0;
  double b = 0;
  double c = 0;
  double mean = 0;  // the mean logit's upstream over the size of the support; within 2^-53 relatively
  double factor = 1;
  double b_error = 0;           // bound of the errors of b and of adding it
  double mean_gap_error = 0;    // bound of mean_gap's own error
  double two_over_softcap = 0;  // 0: no softcap
};

struct BackwardLoops {
  std::int64_t columns;  // of a panel

  // dz[j] for j in [0, count), of ids that are no targets; the logits go on to a multiple of the lane group with -inf,
  // and as much of dz is written to. Writes to `open` the indices of those it cannot prove and returns how many. exact:
  // dz is the rounding of the real expression; otherwise it is within 2^-18 of it, or within 2^-151.
  std::int64_t (*dz)(const DzRow& row, const float* z0, const float* z, std::int64_t count, bool exact, float* dz,
                     std::int32_t* open);

  // Packs `count` <= columns elements of each of `depth` rows as a panel; rows[k] points to the first of them.
  // Returns the greatest magnitude as the bits of an f32, NaN being the greatest.
  std::uint32_t (*pack)(const void* const* rows, DType dtype, std::int64_t depth, std::int64_t count, float* panel);

  // block[kGroupRows][columns] = A B in f32, for one group and one panel: depth fused multiply-adds in order.
  void (*multiply)(const float* group, const float* panel, std::int64_t depth, float* block);
  // c[r * stride + j] += block[r][j] in f64.
  void (*add)(const float* block, std::int64_t rows, std::int64_t columns, double* c, std::int64_t stride);

  // to[i] = x[i] rounded to bf16, or false where one of them rounds to a subnormal number or is 2^127 or more, or the
  // table has no loop for that count: then `to` is undefined.
  bool (*to_bf16)(const double* x, std::int64_t count, std::uint16_t* to);

  // The same for certified sums, in f64, where products of two f32 numbers are exact; groups and panels hold doubles.
  // squares[j] is the sum of the squares of column j of the panel.
  void (*pack_wide)(const void* const* rows, DType dtype, std::int64_t depth, std::int64_t count, double* panel,
                    double* squares);
  void (*multiply_wide)(const double* group, const double* panel, std::int64_t depth, double* block);
  // high + low += block by two-sum: low collects what high rounds off.
  void (*add_wide)(const double* block, std::int64_t rows, std::int64_t columns, double* high, double* low,
                   std::int64_t stride);

  // [lower[j], upper[j]] holds every number within reach * reaches[j] of before[j] + high[j] + low[j], as long as the
  // bound has 2^-48 of itself to spare. All are read, and written, up to a multiple of kEnclosed.
  void (*enclose)(const double* before, const double* high, const double* low, double reach, const double* reaches,
                  std::int64_t count, double* lower, double* upper);
};

}  // namespace isologit::detail::kernels
