// Residual sums: exact sums of two or three real terms, rounded once. A product with the multiplier is exact in f64,
// and so is the sum of four doubles (pairs.cuh): nothing is ever open. Predicted: as long as a copy; measured: not yet.
#pragma once

#include "cuda/activations.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

struct ResidualRequest {
  Activations x, a, b;  // b's data may be null
  float multiplier;
  Results3 y;
  std::int64_t count;  // of rows
  int dim;

  template <class Block>
  ISOLOGIT_DEVICE void one(Block&, int row, int i) const {
    const double first = x.at(x.rows.offset_of(row) + i);
    const double second = static_cast<double>(multiplier) * a.at(a.rows.offset_of(row) + i);
    const double third = b.data != nullptr ? b.at(b.rows.offset_of(row) + i) : 0.0;
    const double total = (first + second) + third;
    y.store(y.rows.offset_of(row) + i,
            is_finite(total) ? round_sum(sum_of(first, second), {third, 0.0}, y.type) : round_once(total, y.type));
  }
};

template <class Launcher>
void launch_residual(Launcher& launcher, const ResidualRequest& r) {
  launch_each(launcher, r, r.count);
}

}  // namespace isologit::detail::cuda
