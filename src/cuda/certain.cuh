// From sums with their errors to f32 numbers: rounded from both ends, or left open.
#pragma once

#include "cuda/row_sum.cuh"

namespace isologit::detail::cuda {

// A positive number between hi + low and hi + high, or 0 if all are.
struct Between {
  double hi, low, high;
};
// Of a number too small for pairs, of which only the sign counts: m, of which it is added to or taken from, is a
// multiple of 2^-149.
ISOLOGIT_DEVICE Between tiny() { return {0.0, 0x1p-1000, 0x1p-760}; }

// f32 of (a + b) plus or minus a number between two: the one that both ends round to, or the mark of an open one.
ISOLOGIT_DEVICE float certain(const Pair& exact, const Between& d, double sign) {
  const float one = round_sum(exact, {sign * d.hi, sign * d.low});
  const float other = round_sum(exact, {sign * d.hi, sign * d.high});
  return one == other ? one : open_mark();
}
ISOLOGIT_DEVICE Between around(const Pair& x, double relative_error = 16 * kSumError) {
  const double error = x.hi * relative_error;  // as a rule more than sums and functions may be off by together
  return {x.hi, x.lo - error, x.lo + error};
}

// L, ln of the sum relative to the top.
ISOLOGIT_DEVICE Between log_total(const Others& others) {
  if (others.count == 0) return {0.0, 0.0, 0.0};
  if (others.rest.hi < kLeast) return tiny();
  return around(log_one_plus(others.rest));
}

// Whether the row is none of the special ones.
ISOLOGIT_DEVICE bool is_plain(const Greatest& greatest) { return greatest.nan_id == kNoId && is_finite(greatest.top); }
ISOLOGIT_DEVICE float logprob(float z, const Greatest& greatest, const Between& log) {
  if (!is_plain(greatest)) return quiet_nan();
  if (z == minus_infinity()) return z;
  return certain(sum_of(static_cast<double>(z), -static_cast<double>(greatest.top)), log, -1.0);
}

// What the logprob of any id of a row is made of.
struct Normalizer {
  Greatest greatest;
  bool ignored;
  Between log;
};

}  // namespace isologit::detail::cuda
