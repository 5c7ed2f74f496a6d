// The sums that a gradient is made of, [rows, cols] in f64: what an earlier call left of them, and what becomes of
// them.
#pragma once

#include "cuda/result.cuh"
#include "cuda/upstream.cuh"

namespace isologit::detail::cuda {

struct GradientSums {
  int rows, cols;
  double* sums;  // [rows, cols], between calls
  bool begins, ends;
  void* result;  // [rows, cols]
  int result_type;
  std::int64_t result_stride;
  bool accumulate;               // to what result holds
  const RowUpstream* upstreams;  // of hidden rows: those that are not active contribute nothing

  ISOLOGIT_DEVICE double before(int row, int col) const {
    return begins || row >= rows || col >= cols ? 0.0 : sums[static_cast<std::int64_t>(row) * cols + col];
  }
  // BY_ROWS: rows are hidden rows.
  template <bool BY_ROWS>
  ISOLOGIT_DEVICE void keep(int row, int col, double sum) const {
    if (row >= rows || col >= cols) return;
    if (!ends) {
      sums[static_cast<std::int64_t>(row) * cols + col] = sum;
      return;
    }
    const std::int64_t at = row * result_stride + col;
    if (BY_ROWS && upstreams[row].active == 0) sum = 0.0;  // whatever the weight holds
    if (accumulate) sum += static_cast<double>(element_value(result, result_type, at));
    store_result(result, result_type, at, sum != sum ? quiet_nan() : round_once(sum, result_type));
  }
};

}  // namespace isologit::detail::cuda
