// e^z in f64, by IEEE operations alone.
#pragma once

#include "cuda/bits.cuh"

namespace isologit::detail::cuda {

// e^z = m 2^k, m between 0.7 and 1.42.
struct NearExponential {
  double m;
  int k;
};

// Of |z| <= 2^20, within 2^-50 of itself. k = round(z log2 e), r = z - k ln 2, in two parts of which the first has 32
// bits: k times it is exact, and so is the subtraction. The second rounds by at most 2^-55, k times what it subtracts
// by 2^-65, and ln 2 ends 2^-65 of it: r is within 2^-54.9, |r| < 0.3467. Then Taylor's series to r^13 in Horner's
// form: the next term is below 2^-57; the last two steps round by 2^-53 and 2^-54.5 or less, the earlier ones by a
// third of the one after, and e^r > 0.707.
ISOLOGIT_DEVICE NearExponential exponential_parts(double z) {
  const double k = rint(z * 0x1.71547652b82fep0);
  const double r = (z - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  double sum = 1.0 / 6227020800.0;
  sum = fused(sum, r, 1.0 / 479001600.0);
  sum = fused(sum, r, 1.0 / 39916800.0);
  sum = fused(sum, r, 1.0 / 3628800.0);
  sum = fused(sum, r, 1.0 / 362880.0);
  sum = fused(sum, r, 1.0 / 40320.0);
  sum = fused(sum, r, 1.0 / 5040.0);
  sum = fused(sum, r, 1.0 / 720.0);
  sum = fused(sum, r, 1.0 / 120.0);
  sum = fused(sum, r, 1.0 / 24.0);
  sum = fused(sum, r, 1.0 / 6.0);
  sum = fused(sum, r, 0.5);
  sum = fused(sum, r, 1.0);
  sum = fused(sum, r, 1.0);
  return {sum, static_cast<int>(k)};
}

// Of |z| <= 700.
ISOLOGIT_DEVICE double exponential_near(double z) {
  const NearExponential e = exponential_parts(z);
  return e.m * power_of_two(e.k);
}

}  // namespace isologit::detail::cuda
