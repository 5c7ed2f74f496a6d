// What proves that a logit summed in f64 is the right one: a bound of the sum's error and the rounding test, else the
// lowest set bit.
//
// The sum, whatever its order. A sum of `steps` f64 additions of exact products, fused or not, in any order, is off by
// at most steps * 2^-53 * (1 + tiny) * sum |h_k w_k|, and by Cauchy and Schwarz the last factor is at most |h| |w|.
// The lowest bit. Every product is a multiple of 2^(lowest bit in h + lowest bit in w), so is every partial sum, and
// each is at most |h| |w|: if that spans no more than 53 bits every partial sum is an f64 number and nothing was
// rounded. Most sums that fail the rounding test are ties or representable, and end here.
#pragma once

#include "cuda/bits.cuh"
#include "cuda/result.cuh"

namespace isologit::detail::cuda {

// Of one row: a bound of its Euclidean norm from above (infinity or NaN if it holds one, or if it is too large to tell)
// and the exponent of the lowest set bit in it, or one below.
struct RowFacts {
  double norm;
  int lowest;
  int unused;
};

// What is gathered of a weight row while it passes: the sum of squares in f32, and the least of 2 |bits| - 1 as
// unsigned numbers, where bits are those of the element as f32: zero becomes the greatest.
struct Gathered {
  float squares;
  std::uint32_t least;
};
ISOLOGIT_DEVICE Gathered gathered_nothing() { return {0.0F, 0xFFFFFFFFU}; }
ISOLOGIT_DEVICE void gather(Gathered& to, float value) {
#ifdef __CUDACC__
  to.squares = __fmaf_rn(value, value, to.squares);
  to.least = min(to.least, (bit_cast<std::uint32_t>(value) << 1) - 1);
#else
  to.squares = std::fma(value, value, to.squares);
  const std::uint32_t own = (bit_cast<std::uint32_t>(value) << 1) - 1;
  to.least = own < to.least ? own : to.least;
#endif
}
ISOLOGIT_DEVICE void merge(Gathered& to, const Gathered& from) {
  to.squares += from.squares;
  to.least = from.least < to.least ? from.least : to.least;
}

// Each of at most 2 size roundings of the squares loses a 2^-24th part, or 2^-150 where f32 is subnormal. The lowest
// bit is that of a number with the least element's exponent and all its bits.
template <class E>
ISOLOGIT_DEVICE RowFacts facts_of(const Gathered& gathered, int size) {
  RowFacts facts;
  facts.norm = sqrt(static_cast<double>(gathered.squares) * (1.0 + size * 0x1p-22) + size * 0x1p-148);
  facts.lowest = kNoBit;
  if (gathered.least != 0xFFFFFFFFU) {
    const int field = static_cast<int>((gathered.least + 1) >> 24);
    const int lowest = (field > 0 ? field : 1) - 127 - E::kFraction;
    facts.lowest = lowest > E::kLowest ? lowest : E::kLowest;
  }
  facts.unused = 0;
  return facts;
}

// The logit rounded once to a type, or the mark of an open one. `sum` is the sum of products after `steps` additions.
ISOLOGIT_DEVICE float certified(double sum, const RowFacts& hidden, const RowFacts& weight, float bias, int steps,
                                int type = kF32) {
  const double magnitude = hidden.norm * weight.norm + fabs(static_cast<double>(bias));
  const double z = sum + static_cast<double>(bias);
  // The last term: for that addition, for this one, and for the two below.
  const double error = steps * 0x1.02p-53 * magnitude + fabs(z) * 0x1p-51;
  const float low = round_once(z - error, type);
  const float high = round_once(z + error, type);
  if (low == high) return low;  // never with NaN
  int lowest = hidden.lowest + weight.lowest;
  const int bias_lowest = lowest_bit(static_cast<double>(bias));
  if (bias_lowest < lowest) lowest = bias_lowest;
  // The norms' own roundings, 2^-40 for both: one bit is kept in hand.
  if (magnitude <= power_of_two(52 + (lowest < kNoBit ? lowest : kNoBit))) return round_once(z, type);
  return open_mark();
}

}  // namespace isologit::detail::cuda
