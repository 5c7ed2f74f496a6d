// ln of the share of the whole vocabulary's mass that a support keeps, from the sums of what is kept and what is
// dropped.
//
// With A and B the sums of both relative to their tops, d the exact difference of the tops (kept less dropped), and
// q = e^-d B / A, the share is 1 / (1 + q) and its logarithm -ln(1 + q), which keeps its relative precision where q is
// small. Where q is huge it is d + ln(A / (B + e^d A)): d may be a midpoint of two f32 numbers, so that the sign of the
// second term decides, and A and B, if nearly equal, say little of it. Each is 1 plus a sum: these differ without the
// 1. Sums that are equal but for 2^-62 of themselves leave the sign open, and so do two that are too small for pairs;
// then the result is open only where d is a midpoint or as good as one.
#pragma once

#include "cuda/certain.cuh"

namespace isologit::detail::cuda {

// kept: its top is finite, and there is no NaN.
ISOLOGIT_DEVICE float log_share(const RowSum& kept, const RowSum& dropped) {
  const float other = dropped.greatest.top;
  if (dropped.greatest.nan_id != kNoId) return quiet_nan();
  if (other == minus_infinity()) return 0.0F;
  if (!is_finite(other)) return quiet_nan();
  const Pair gap = sum_of(static_cast<double>(kept.greatest.top), -static_cast<double>(other));
  const Pair one = {1.0, 0.0};
  const Pair a = add(one, kept.others.rest);
  const Pair b = add(one, dropped.others.rest);
  if (gap.hi > kFarthest) return 0.0F;  // as is all below 2^-150
  if (gap.hi > -28.0) {                 // q is below e^28 2^22, within 2^-86 of itself
    const Pair q = divide(multiply(value_of(exponential(negative(gap))), b), a);
    return q.hi < 0x1p-160 ? 0.0F : certain({0.0, 0.0}, around(log_one_plus(q)), -1.0);
  }
  const Pair nothing = {0.0, 0.0};
  const Pair e = gap.hi < -kFarthest ? nothing : multiply(value_of(exponential(gap)), a);
  const Pair whole = add(b, e);
  const Pair more = add(add(kept.others.rest, negative(dropped.others.rest)), negative(e));  // A - (B + e)
  const double parts = kept.others.rest.hi + dropped.others.rest.hi + e.hi;
  const double size = fabs(more.hi);
  // The sums are within 2^-87 of themselves, and what lies beyond kFarthest or is lost below 2^-1000 is less than this.
  const double error = parts * (4 * kSumError) + 0x1p-950;
  const bool known = error * 0x1p24 <= size;
  if (!known && kept.others.count != 0) {  // of none the difference is negative
    const double most = 2 * (size + error);
    const float low = round_sum(gap, {-most, 0.0});
    return low == round_sum(gap, {most, 0.0}) ? low : open_mark();
  }
  const double sign = kept.others.count != 0 && more.hi > 0 ? 1.0 : -1.0;
  if (size < 0x1p-770) return certain(gap, tiny(), sign);
  // ln(1 + x) is off by no larger a part of itself than x.
  const Pair x = sign > 0 ? divide(more, whole) : divide(negative(more), a);
  return certain(gap, around(log_one_plus(x), 16 * kSumError + 2 * error / size), sign);
}

}  // namespace isologit::detail::cuda
