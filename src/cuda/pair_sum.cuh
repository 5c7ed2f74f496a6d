// Sums of exact products in pairs of doubles, with a bound of their error.
#pragma once

#include "cuda/certificate.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

// s + e is the sum; m the sum of magnitudes, `lowest` the lowest set bit of any product, `specials` what else was met.
enum : std::uint32_t { kMetNan = 1, kMetPlusInfinity = 2, kMetMinusInfinity = 4 };
struct PairSum {
  double s, e, m;
  int lowest;
  std::uint32_t specials;
};
ISOLOGIT_DEVICE PairSum empty_pair_sum() { return {0.0, 0.0, 0.0, kNoBit, 0}; }

ISOLOGIT_DEVICE void add_product(PairSum& to, double product) {
  const double magnitude = fabs(product);
  if (!(magnitude < 0x1p1000)) {
    to.specials |= product > 0 ? kMetPlusInfinity : product < 0 ? kMetMinusInfinity : kMetNan;
    return;
  }
  to.e += two_sum(to.s, product);
  to.m += magnitude;
  const int lowest = lowest_bit(product);
  to.lowest = lowest < to.lowest ? lowest : to.lowest;
}

ISOLOGIT_DEVICE void merge(PairSum& to, const PairSum& from) {
  const double error = two_sum(to.s, from.s);
  to.e += error + from.e;
  to.m += from.m;
  to.lowest = from.lowest < to.lowest ? from.lowest : to.lowest;
  to.specials |= from.specials;
}

// The logit of a type that a sum of `terms` products proves, or the mark of an open one.
// Of n additions each two_sum leaves at most 2^-53 m in e, which is then itself a sum of 2n rounded additions of
// numbers that together are at most 2 n 2^-53 m: its error is below 4 n^2 2^-106 m. Where that is below the lowest bit
// of all products, of which s + e is a multiple as is the sum itself, there is no error.
ISOLOGIT_DEVICE float settled(const PairSum& sum, int terms, int type = kF32) {
  if (sum.specials != 0) {
    if (sum.specials == kMetPlusInfinity) return bit_cast<float>(std::uint32_t{0x7F800000});
    if (sum.specials == kMetMinusInfinity) return bit_cast<float>(std::uint32_t{0xFF800000});
    return quiet_nan();
  }
  const double n = static_cast<double>(terms) + 40;  // and the additions of lanes
  double high = sum.s;
  const double low = two_sum(high, sum.e);
  double error = sum.m * (n * n) * 0x1.1p-104;
  if (error < power_of_two(sum.lowest)) return round_sum(high, low, type);
  error += fabs(low) * 0x1p-51 + error * 0x1p-51;
  const float below = round_sum(high, low - error, type);
  const float above = round_sum(high, low + error, type);
  return below == above ? below : open_mark();
}

}  // namespace isologit::detail::cuda
