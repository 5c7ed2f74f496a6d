// The exact sum of products as an integer: what always ends. 21 digits of 32 bits, each in a 64-bit word with room for
// 2^31 additions, from 2^-320 to beyond any sum of products of two f32 numbers (2^-298 to 2^256, times the terms).
#pragma once

#include "cuda/bits.cuh"
#include "cuda/certificate.cuh"

namespace isologit::detail::cuda {

struct Accumulator {
  static constexpr int kDigits = 21;
  static constexpr int kLowest = -320;  // a multiple of 32: a product's place is then a shift of its exponent
  unsigned long long digit[kDigits];    // two's complement; value = sum of digit[i] 2^(32 i + kLowest)
};

// The same for terms that are products of two such sums' terms: multiples of 2^-620, at most 2^620. Of what is small in
// the squares of two sides of an equation (norm.cuh) nothing is lost.
struct WideAccumulator {
  static constexpr int kDigits = 41;
  static constexpr int kLowest = -640;
  unsigned long long digit[kDigits];
};

// Adds a finite double that is a multiple of 2^-298 and at most 2^256, or what a wide one takes. `add` adds a number to
// a digit, atomically where several lanes add at once: integers, so that their order cannot be seen.
template <class Sum = Accumulator, class Add>
ISOLOGIT_DEVICE void accumulate(double term, Add add) {
  const auto bits = bit_cast<std::uint64_t>(term);
  if ((bits << 1) == 0) return;
  const std::uint64_t significand = (bits & 0xFFFFFFFFFFFFFU) | std::uint64_t{1} << 52;
  int place = static_cast<int>((bits >> 52) & 0x7FFU) - 1075 - Sum::kLowest;
  std::uint64_t kept = significand;
  if (place < 0) {  // what falls off is zero, as the term is a multiple of what it is
    kept >>= -place;
    place = 0;
  }
  const int digit = place >> 5;
  const int shift = place & 31;
  const std::uint64_t low = (kept & 0xFFFFFFFFU) << shift;
  const std::uint64_t high = (kept >> 32) << shift;  // 21 + 31 bits
  const std::uint64_t middle = (low >> 32) + (high & 0xFFFFFFFFU);
  const bool negative = (bits >> 63) != 0;
  const std::uint64_t parts[3] = {low & 0xFFFFFFFFU, middle & 0xFFFFFFFFU, (middle >> 32) + (high >> 32)};
  ISOLOGIT_UNROLL
  for (int i = 0; i < 3; ++i) {
    if (parts[i] != 0) add(digit + i, negative ? ~parts[i] + 1 : parts[i]);
  }
}

// Brings every digit but the highest into [0, 2^32); the highest carries the sign.
template <class Sum>
ISOLOGIT_DEVICE void carry(Sum& sum) {
  for (int i = 0; i + 1 < Sum::kDigits; ++i) {
    const auto up = static_cast<std::uint64_t>(static_cast<std::int64_t>(sum.digit[i]) >> 32);
    sum.digit[i] &= 0xFFFFFFFFU;
    sum.digit[i + 1] += up;
  }
}

// The sum rounded once to a type: its leading 53 bits or more, the last of them set if anything follows (rounded to
// odd), which makes an f64 that rounds as the sum does.
ISOLOGIT_DEVICE float round_once(Accumulator& sum, int type = kF32) {
  carry(sum);
  const bool negative = static_cast<std::int64_t>(sum.digit[Accumulator::kDigits - 1]) < 0;
  if (negative) {
    for (int i = 0; i < Accumulator::kDigits; ++i) sum.digit[i] = ~sum.digit[i] + 1;
    carry(sum);
  }
  int top = Accumulator::kDigits - 1;
  while (top > 0 && sum.digit[top] == 0) --top;
  // The leading three digits hold at least 65 bits of the sum; 53 of them, from the highest that is set, are an f64.
  const std::uint64_t first = sum.digit[top];
  const std::uint64_t second = top > 0 ? sum.digit[top - 1] : 0;
  const std::uint64_t third = top > 1 ? sum.digit[top - 2] : 0;
  bool more = false;
  for (int i = 0; i < top - 2; ++i) more = more || sum.digit[i] != 0;
  std::uint64_t leading = first << 32 | second;
  if (leading == 0) return 0.0F;
  int exponent = 32 * (top - 1) + Accumulator::kLowest;  // of the lowest bit of `leading`
  std::uint64_t rest = third << 32;
  while ((leading >> 63) == 0) {
    leading = leading << 1 | rest >> 63;
    rest <<= 1;
    --exponent;
  }
  more = more || rest != 0 || (leading & 0x7FFU) != 0;
  leading = leading >> 11 | (more ? 1U : 0U);
  const double magnitude = static_cast<double>(leading) * power_of_two(exponent + 11);
  return round_once(negative ? -magnitude : magnitude, type);
}

}  // namespace isologit::detail::cuda
