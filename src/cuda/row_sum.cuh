// What is kept of the logits of a row, or of a part of it: the greatest, and sums over all others relative to it.
//
// Leaving the greatest out is what keeps the logprob of a nearly certain id precise: 1 + rest would lose the rest. All
// sums are of positive numbers, so nothing cancels, and all are in pairs of doubles. Of two parts with tops A >= B
//   rest    = rest_A + f (1 + rest_B),   f = e^(B - A), B - A exact as a pair
//   moment  = moment_A + f (moment_B + (A - B) (1 + rest_B))
//   squares = squares_A + f^2 (1 + squares_B).
// The bound. An exponential is within 2^-98, an operation within 2^-102 of itself. A number passes through at most 21
// additions in a stretch of the vocabulary and 69 merges of stretches, each of at most an exponential, squared, and six
// operations: all sums are within 2^-88 of themselves. Gaps beyond kFarthest count as nothing: together that is below
// 2^-960 of the top, and so are products too small for pairs; kLeast says when the rest is too small for this.
#pragma once

#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

inline constexpr double kFarthest = 690.0;
inline constexpr double kSumError = 0x1p-88;
inline constexpr double kLeast = 0x1p-800;
inline constexpr int kNoId = 0x7FFFFFFF;

// Of some logits the greatest that is not NaN, and the first id that has it; the first id of a NaN. Of none: top is
// -inf, the ids are kNoId.
struct Greatest {
  float top;
  int id, nan_id;
};
ISOLOGIT_DEVICE bool is_finite(float x) { return (bit_cast<std::uint32_t>(x) & 0x7F800000U) != 0x7F800000U; }
ISOLOGIT_DEVICE int lesser(int a, int b) { return a < b ? a : b; }

ISOLOGIT_DEVICE Greatest nothing_greatest() { return {minus_infinity(), kNoId, kNoId}; }
ISOLOGIT_DEVICE void merge(Greatest& to, const Greatest& from) {
  if (from.top > to.top || (from.top == to.top && from.id < to.id)) {
    to.top = from.top;
    to.id = from.id;
  }
  to.nan_id = lesser(to.nan_id, from.nan_id);
}
ISOLOGIT_DEVICE void absorb(Greatest& to, float z, int id) {
  merge(to, z != z ? Greatest{minus_infinity(), kNoId, id} : Greatest{z, id, kNoId});
}

// Sums over the logits above -inf but the first greatest: e^(z - top), (top - z) e^(z - top), e^(2 (z - top)).
struct Others {
  Pair rest, moment, squares;
  int count;
  int unused;
};
ISOLOGIT_DEVICE Others no_others() { return {{0.0, 0.0}, {0.0, 0.0}, {0.0, 0.0}, 0, 0}; }
ISOLOGIT_DEVICE void merge(Others& to, const Others& from) {  // of one top
  to.rest = add(to.rest, from.rest);
  to.moment = add(to.moment, from.moment);
  to.squares = add(to.squares, from.squares);
  to.count += from.count;
}
// SHAPE: moment and squares too; they are needed for entropy and sum_p2 alone.
template <bool SHAPE>
ISOLOGIT_DEVICE void absorb(Others& to, float z, float top) {
  ++to.count;
  const Pair gap = sum_of(static_cast<double>(z), -static_cast<double>(top));
  if (gap.hi < -kFarthest) return;
  const Pair e = value_of(exponential(gap));
  to.rest = add(to.rest, e);
  if (SHAPE) {
    to.moment = add(to.moment, multiply(negative(gap), e));
    to.squares = add(to.squares, multiply(e, e));
  }
}

ISOLOGIT_DEVICE Pair chosen(bool first, const Pair& a, const Pair& b) {
  return {first ? a.hi : b.hi, first ? a.lo : b.lo};
}
ISOLOGIT_DEVICE Others chosen(bool first, const Others& a, const Others& b) {
  return {chosen(first, a.rest, b.rest), chosen(first, a.moment, b.moment), chosen(first, a.squares, b.squares),
          first ? a.count : b.count, 0};
}

struct RowSum {
  Greatest greatest;
  int unused;
  Others others;
};
ISOLOGIT_DEVICE RowSum empty_row_sum() { return {nothing_greatest(), 0, no_others()}; }

ISOLOGIT_DEVICE void merge(RowSum& to, const RowSum& from) {
  const float a = to.greatest.top;
  const float b = from.greatest.top;
  const Greatest before = to.greatest;
  merge(to.greatest, from.greatest);
  if (b == minus_infinity()) return;
  if (a == minus_infinity()) {
    to.others = from.others;
    return;
  }
  if (!is_finite(to.greatest.top)) return;  // +inf: of such a row no sum is asked
  // By selections of values: the address of either would put both into memory.
  const bool same = to.greatest.id == before.id;
  const Others low = chosen(same, from.others, to.others);
  Others sum = chosen(same, to.others, from.others);
  sum.count += low.count + 1;
  const Pair gap = same ? sum_of(static_cast<double>(b), -static_cast<double>(a))
                        : sum_of(static_cast<double>(a), -static_cast<double>(b));
  if (gap.hi >= -kFarthest) {
    const Pair f = value_of(exponential(gap));
    const Pair total = add({1.0, 0.0}, low.rest);
    sum.rest = add(sum.rest, multiply(f, total));
    sum.moment = add(sum.moment, multiply(f, add(low.moment, multiply(negative(gap), total))));
    sum.squares = add(sum.squares, multiply(multiply(f, f), add({1.0, 0.0}, low.squares)));
  }
  to.others = sum;
}

}  // namespace isologit::detail::cuda
