// What the gradients of a row need of its distribution, as forward passes leave it: numbers of f64.
//
// Of the greatest logit its value and first id, of all others the sums of row_sum.cuh: rest = sum of e^(z - top),
// moment = sum of (top - z) e^(z - top); and whether the row is special (CONTRACT.md 3), so that its floats are NaN.
// The first five are kept between calls; with the low parts of the pairs, seven, a sum is within 2^-88 of itself.
#pragma once

#include "cuda/row_sum.cuh"

namespace isologit::detail::cuda {

inline constexpr int kKeptDoubles = 5;
inline constexpr int kWholeDoubles = 7;

struct Summary {
  float top;
  int first;
  Pair rest, moment;
  bool special;
};

ISOLOGIT_DEVICE void write_summary(const RowSum& sum, bool plain, double* to, int doubles) {
  const double values[kWholeDoubles] = {static_cast<double>(sum.greatest.top),
                                        static_cast<double>(sum.greatest.id),
                                        sum.others.rest.hi,
                                        sum.others.moment.hi,
                                        0.0,
                                        sum.others.rest.lo,
                                        sum.others.moment.lo};
  for (int i = 0; i < doubles; ++i) to[i] = plain ? values[i] : i == 4 ? 1.0 : 0.0;
}

ISOLOGIT_DEVICE Summary read_summary(const double* from, int doubles) {
  const bool whole = doubles == kWholeDoubles;
  return {static_cast<float>(from[0]),
          static_cast<int>(from[1]),
          {from[2], whole ? from[5] : 0.0},
          {from[3], whole ? from[6] : 0.0},
          from[4] != 0.0};
}

}  // namespace isologit::detail::cuda
