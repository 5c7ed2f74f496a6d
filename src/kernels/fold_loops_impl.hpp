// The loops of kernels/fold_loops.hpp in the vector types of GCC and clang; included by one file per instruction set,
// which defines ISOLOGIT_LANES, the number of doubles in a register. Unnamed namespace: see kernels/panel.hpp.
//
// The exponential is that of kernels/exp.hpp. A multiplication by 2^(k - scale) is exact: k - scale >= -1002.
// The sums. A term is within 2^-50, its square within 2^-49, and moment adds two roundings a term; it takes part in at
// most 34 additions (32 of a chain of kMostTile / 4 where a register holds two doubles, one of chains, one of lanes;
// fewer where it holds more). In all below 2^-47. A logit below the floor counts as the floor, an error of at most
// 2^-1000 times 2^10 of (top
// - z), and e^z (top - z) falls beyond; where (top - z) is huge the caller treats the row's far logits as below all
// granularity.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>

#include "exact/elementary.hpp"
#include "kernels/exp.hpp"
#include "kernels/fold_loops.hpp"

#if ISOLOGIT_LANES > 2
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace isologit::detail::kernels::loops {
namespace {

constexpr int kWidth = ISOLOGIT_LANES;
using Doubles = double __attribute__((vector_size(8 * kWidth)));
using Longs = std::int64_t __attribute__((vector_size(8 * kWidth)));
using Floats = float __attribute__((vector_size(8 * kWidth)));  // twice as many
using Ints = std::int32_t __attribute__((vector_size(8 * kWidth)));
using HalfFloats = float __attribute__((vector_size(4 * kWidth)));  // as many as Doubles
constexpr int kFloats = 2 * kWidth;

template <class Target, class From>
inline Target load(const From* from) {
  Target value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class To, class From>
inline To bits_of(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline Doubles broadcast(double x) { return Doubles{} + x; }

inline Doubles select(Longs mask, Doubles yes, Doubles no) {
  return bits_of<Doubles>((mask & bits_of<Longs>(yes)) | (~mask & bits_of<Longs>(no)));
}

#if ISOLOGIT_LANES == 8
inline Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return bits_of<Doubles>(_mm512_fmadd_pd(bits_of<__m512d>(a), bits_of<__m512d>(b), bits_of<__m512d>(c)));
}
#elif ISOLOGIT_LANES == 4
inline Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
#else
inline Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return a * b + c; }
#endif

// GCC 12 makes a detour through memory of the conversions between a register and half of one.
inline Doubles widen(const float* from) {
#if ISOLOGIT_LANES == 8
  return bits_of<Doubles>(_mm512_cvtps_pd(_mm256_loadu_ps(from)));
#elif ISOLOGIT_LANES == 4
  return _mm256_cvtps_pd(_mm_loadu_ps(from));
#else
  return __builtin_convertvector(load<HalfFloats>(from), Doubles);
#endif
}

inline HalfFloats narrow(Doubles x) {
#if ISOLOGIT_LANES == 8
  return bits_of<HalfFloats>(_mm512_cvtpd_ps(bits_of<__m512d>(x)));
#elif ISOLOGIT_LANES == 4
  return _mm256_cvtpd_ps(x);
#else
  return __builtin_convertvector(x, HalfFloats);
#endif
}

// Of a register's lanes, in pairs of pairs: one by one each would wait for the one before.
template <class Vector, class Value, class Join>
inline Value join_lanes(Vector vector, Value, Join join) {
  constexpr std::size_t kLanes = sizeof(Vector) / sizeof(Value);
  Value lanes[kLanes];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] = join(lanes[i], lanes[i + half]);
  }
  return lanes[0];
}

inline double sum_of(Doubles x) {
  return join_lanes(x, 0.0, [](double a, double b) { return a + b; });
}
inline std::int32_t sum_of(Ints x) {
  return join_lanes(x, 0, [](std::int32_t a, std::int32_t b) { return a + b; });
}

inline Scan scan(const float* logits, std::int64_t count) {
  const float nothing = -std::numeric_limits<float>::infinity();
  Floats greatest = Floats{} + nothing;
  Ints nan = {};
  Ints above = {};
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const auto z = load<Floats>(logits + i);
    greatest = z > greatest ? z : greatest;
    nan |= z != z;
    above -= z > nothing;
  }
  return {join_lanes(greatest, 0.0F, [](float a, float b) { return b > a ? b : a; }), sum_of(nan) != 0, sum_of(above)};
}

// e^z in units of 2^scale; z >= floor, which keeps k - scale above -1002. `lift` is the exponent field's share of
// -scale together with the offset of kRound.
inline Doubles exp_scaled(Doubles z, std::int64_t lift) {
  const Doubles shifted = multiply_add(z, broadcast(kLog2E), broadcast(kRound));
  const Doubles k = shifted - kRound;
  const Doubles r = multiply_add(k, broadcast(-kLn2Low), multiply_add(k, broadcast(-kLn2High), z));
  Doubles p = broadcast(kExpCoefficients[0]);
  for (std::size_t n = 1; n < std::size(kExpCoefficients); ++n) {
    p = multiply_add(p, r, broadcast(kExpCoefficients[n]));
  }
  return bits_of<Doubles>(bits_of<Longs>(p) + ((bits_of<Longs>(shifted) - lift) << 52));
}

inline Sums sums(const float* logits, std::int64_t count, float top, int scale) {
  const double lowest = (scale - 1000) * 0.6931471805599453;
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound) + scale;
  const double nothing = -std::numeric_limits<double>::infinity();
  Doubles mass[2] = {};
  Doubles moment[2] = {};
  Doubles squares[2] = {};
  for (std::int64_t i = 0; i < count; i += 2 * kWidth) {
    for (int half = 0; half < 2; ++half) {
      const Doubles z = widen(logits + i + half * kWidth);
      const Longs there = z > nothing;
      const Doubles held = select(z > lowest, z, broadcast(lowest));
      const Doubles term = select(there, exp_scaled(held, lift), Doubles{});
      mass[half] += term;
      moment[half] += term * (static_cast<double>(top) - held);
      squares[half] += term * term;
    }
  }
  return {sum_of(mass[0] + mass[1]), sum_of(moment[0] + moment[1]), sum_of(squares[0] + squares[1])};
}

// A term is within 2^-50 and takes part in at most 20 additions (16 of a chain, 3 of chains, 1 of lanes, where a
// register holds two doubles; fewer of them where it holds more): 2^-48.1. -inf counts as the floor, below 2^-999.
inline double mass(const float* logits, std::int64_t count, int scale) {
  constexpr int kChains = kWidth == 2 ? 4 : kLaneGroup / kWidth;
  const double lowest = (scale - 1000) * 0.6931471805599453;
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound) + scale;
  Doubles sum[kChains] = {};
  for (std::int64_t i = 0; i < count; i += kChains * kWidth) {
    for (int c = 0; c < kChains; ++c) {
      const Doubles z = widen(logits + i + c * kWidth);
      sum[c] += exp_scaled(select(z > lowest, z, broadcast(lowest)), lift);
    }
  }
  for (int c = 1; c < kChains; ++c) sum[0] += sum[c];
  return sum_of(sum[0]);
}

inline std::int64_t count_above(const float* logits, std::int64_t count, float threshold, bool or_equal) {
  std::int64_t total = 0;
  std::int64_t i = 0;
  const Floats limit = Floats{} + threshold;
  Ints found = {};
  if (or_equal) {
    for (; i + kFloats <= count; i += kFloats) found -= load<Floats>(logits + i) >= limit;
  } else {
    for (; i + kFloats <= count; i += kFloats) found -= load<Floats>(logits + i) > limit;
  }
  total += sum_of(found);
  for (; i < count; ++i) total += or_equal ? logits[i] >= threshold : logits[i] > threshold;
  return total;
}

inline bool any_not_below(const float* logits, std::int64_t count, float threshold) {
  const Floats limit = Floats{} + threshold;
  Ints found = {};
  std::int64_t i = 0;
  for (; i + kFloats <= count; i += kFloats) found |= ~(load<Floats>(logits + i) < limit);
  bool any = sum_of(found) != 0;
  for (; i < count; ++i) any = any || !(logits[i] < threshold);
  return any;
}

// cap tanh(x), x = |z| / cap, as cap (1 - e) / (1 + e) with e = e^(-2x). x has a relative error of 2^-53 and 2x <= 20,
// so e is within 2^-48.6 of its value with x's error and 2^-51.5 with its own: 2^-48.3 in all. d/de (1 - e)/(1 + e) is
// at most 2 in magnitude, so e's error moves the result by at most cap e 2^-47.3; the four operations after it by 4 *
// 2^-53 of the result (1 - e has no error beyond e's and its own rounding). Bound: cap e 2^-47 + result 2^-50.
inline void softcap(float* logits, std::int64_t count, float cap) {
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound);
  const double c = static_cast<double>(cap);
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles z = widen(logits + i);
    const Doubles size = select(z < 0, -z, z);
    const Doubles x = select(size < 10 * c, size / c, broadcast(10));
    const Doubles e = exp_scaled(-2 * x, lift);
    const Doubles capped = c * ((1 - e) / (1 + e));
    const Doubles error = c * e * 0x1p-47 + capped * 0x1p-50;
    const HalfFloats low = narrow(capped - error);
    const HalfFloats high = narrow(capped + error);
    for (int lane = 0; lane < kWidth; ++lane) {
      float& logit = logits[i + lane];
      if (low[lane] == high[lane] && size[lane] < 10 * c) {
        logit = logit < 0 ? -low[lane] : low[lane] + 0.0F;  // of 0, low may be -0
      } else {
        logit = static_cast<float>(exact::softcap(logit, cap, exact::kF32));
      }
    }
  }
}

// Philox works on 32-bit words, here each in a 64-bit lane whose upper half is left as it falls: products read only the
// lower halves, and so does whoever reads the result.
using Words = std::uint64_t __attribute__((vector_size(8 * kWidth)));
using HalfWords = std::uint32_t __attribute__((vector_size(8 * kWidth)));  // twice as many

inline Words multiply_low(Words a, Words b) {
#if ISOLOGIT_LANES == 8
  return bits_of<Words>(_mm512_mul_epu32(bits_of<__m512i>(a), bits_of<__m512i>(b)));
#elif ISOLOGIT_LANES == 4
  return reinterpret_cast<Words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<Words>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xFFFFFFFFU) * (b & 0xFFFFFFFFU);
#endif
}

// The words of `blocks` blocks from `first` on, in the order of ids; written are whole registers.
inline void first_words(const Draw& draw, std::uint32_t first, std::int64_t blocks, std::uint32_t* words) {
  Words lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = static_cast<std::uint64_t>(i);
  for (std::int64_t block = 0; block < blocks; block += kWidth) {
    Words c0 = lane + first + static_cast<std::uint64_t>(block);
    Words c1 = Words{} + draw.position;
    Words c2 = Words{} + draw.sequence;
    Words c3 = Words{} + (draw.sequence >> 32);
    auto key0 = static_cast<std::uint32_t>(draw.seed);
    auto key1 = static_cast<std::uint32_t>(draw.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const Words product0 = multiply_low(c0, Words{} + 0xD2511F53U);
      const Words product1 = multiply_low(c2, Words{} + 0xCD9E8D57U);
      c0 = (product1 >> 32) ^ c1 ^ key0;
      c1 = product1;
      c2 = (product0 >> 32) ^ c3 ^ key1;
      c3 = product0;
      key0 += 0x9E3779B9U;
      key1 += 0xBB67AE85U;
    }
    const Words low = (c0 & 0xFFFFFFFFU) | c1 << 32;
    const Words high = (c2 & 0xFFFFFFFFU) | c3 << 32;
    for (int i = 0; i < kWidth; ++i) {
      const std::uint32_t four[4] = {static_cast<std::uint32_t>(low[i]), static_cast<std::uint32_t>(low[i] >> 32),
                                     static_cast<std::uint32_t>(high[i]), static_cast<std::uint32_t>(high[i] >> 32)};
      std::memcpy(words + 4 * (block + i), four, sizeof four);
    }
  }
}

// An upper bound of the Gumbel number g = -ln(-ln u) from its first word r: -ln u > 1 - u > w 2^-24 with w = (2^32 - 1
// - r) >> 8, so g < -ln(w 2^-24) = (24 - log2 w) ln 2; and log2 w is at least the straight line through its values at
// the powers of two, which the bits of a float are: bits 2^-23 - 127 (w = 0 counts as 2^-127: more than any g). The
// line is evaluated in f32: three roundings relative to 105 or less, below 2^-15; z - rival rounds by less than 2^-17
// where it is below 2^7 in size, and above that the comparison is not close. Comparing the rounded sum with a float is
// exact, as rounding is monotone.
inline std::int64_t gumbel_hits(const Draw& draw, const float* logits, std::int64_t first_id, std::int64_t count,
                                float rival, float gumbel, Hit* hits) {
  constexpr float kSlope = 0x1.62e430p-24F;         // ln 2 2^-23
  constexpr float kOffset = 104.66522F + 0x1p-13F;  // 151 ln 2 and what is rounded off
  alignas(64) std::uint32_t words[kMostTile + 4 * kWidth + 2 * kFloats];
  alignas(64) std::int32_t reached[kMostTile + kFloats];
  const std::int64_t skipped = first_id % 4;
  first_words(draw, static_cast<std::uint32_t>(first_id / 4), (count + skipped + 3) / 4, words);
  const float nothing = -std::numeric_limits<float>::infinity();
  Ints any = {};
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const auto z = load<Floats>(logits + i);
    const HalfWords complement = ~load<HalfWords>(words + skipped + i) >> 8;
    const auto bits = bits_of<Ints>(__builtin_convertvector(bits_of<Ints>(complement), Floats));
    const Floats bound = kOffset - __builtin_convertvector(bits, Floats) * kSlope;
    const Ints reach = ((z - rival) + bound >= gumbel) & (z > nothing);
    std::memcpy(reached + i, &reach, sizeof reach);
    any |= reach;
  }
  bool found = false;
  for (int i = 0; i < kFloats; ++i) found = found || any[i] != 0;
  if (!found) return 0;
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (reached[i] != 0) hits[total++] = {static_cast<std::int32_t>(i), words[skipped + i]};
  }
  return total;
}

// z - lse by one subtraction. lse = top + excess in f64 is within error = (high - low) / 2 and the roundings of the
// middle and of lse; 2^-52 of both covers them and what computing the error rounds off. The difference d rounds by
// 2^-53 |d|; so do each of the two operations that make an end of the interval (one with multiply_add), whose 2^-51 |d|
// covers all three. d <= 0 but for rounding, and then it is below the error in size.
inline std::int64_t log_softmax(const float* logits, std::int64_t count, float top, const Excess& excess,
                                float* logprobs, std::int32_t* open) {
  const double middle = excess.low + (excess.high - excess.low) / 2;
  const double lse = static_cast<double>(top) + middle;
  const double size = lse < 0 ? -lse : lse;
  const double error = (excess.high - excess.low) * (0.5 + 0x1p-20) + (size + middle) * 0x1p-52;
  using HalfInts = std::int32_t __attribute__((vector_size(4 * kWidth)));
  const auto write = [&](std::int64_t i) -> HalfInts {
    const Doubles z = widen(logits + i);
    const Doubles d = z - lse;
    const HalfFloats low = narrow(multiply_add(d, broadcast(1 + 0x1p-51), broadcast(-error)));
    const HalfFloats high = narrow(multiply_add(d, broadcast(1 - 0x1p-51), broadcast(error)));
    const HalfFloats rounded = high + 0.0F;  // of 0, high may be -0
    std::memcpy(logprobs + i, &rounded, sizeof rounded);
    return low != high;
  };
  HalfInts any = {};
  for (std::int64_t i = 0; i < count; i += kWidth) any |= write(i);
  std::int32_t differs = 0;
  for (int lane = 0; lane < kWidth; ++lane) differs |= any[lane];
  if (differs == 0) return 0;
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const HalfInts which = write(i);
    for (int lane = 0; lane < kWidth; ++lane) {
      if (which[lane] != 0) open[total++] = static_cast<std::int32_t>(i) + lane;
    }
  }
  return total;
}

// p is within 2^-50, the unit's error and the rounding of their product; p b rounds once more, and the sum with g.
// The factor is rounded, and so is the product with it: 2^-51 of the whole covers these three. What the bounds
// themselves round off is below 2^-50 of them. A p below the floor, 2^-998 or less, counts as the floor: no dz depends
// on it.
inline std::int64_t softmax_gradient(const SoftmaxGradient& row, const float* logits, const float* g,
                                     std::int64_t count, float* dz, std::int32_t* open) {
  const double lowest = (row.scale - 1000) * 0.6931471805599453;
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound) + row.scale;
  const auto size = [](Doubles x) { return bits_of<Doubles>(bits_of<Longs>(x) & 0x7FFFFFFFFFFFFFFF); };
  const double relative = 0x1p-49 + row.unit_error;
  using HalfInts = std::int32_t __attribute__((vector_size(4 * kWidth)));
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles z = widen(logits + i);
    const Doubles p = exp_scaled(select(z > lowest, z, broadcast(lowest)), lift) * row.unit;
    const Doubles change = p * row.b;
    const Doubles whole = (widen(g + i) + change) * row.factor;
    const Doubles error = (size(change) * relative + p * row.b_error) * row.factor + size(whole) * 0x1p-51;
    const HalfFloats low = narrow(whole - error);
    const HalfFloats high = narrow(whole + error);
    const HalfFloats rounded = high + 0.0F;  // of 0, high may be -0
    std::memcpy(dz + i, &rounded, sizeof rounded);
    const HalfInts differs = low != high;
    std::int32_t any = 0;
    for (int lane = 0; lane < kWidth; ++lane) any |= differs[lane];
    if (any == 0) continue;
    for (int lane = 0; lane < kWidth; ++lane) {
      if (differs[lane] != 0) open[total++] = static_cast<std::int32_t>(i) + lane;
    }
  }
  return total;
}

constexpr FoldLoops kFoldLoops{scan,    sums,        mass,        count_above,     any_not_below,
                               softcap, gumbel_hits, log_softmax, softmax_gradient};

}  // namespace
}  // namespace isologit::detail::kernels::loops
