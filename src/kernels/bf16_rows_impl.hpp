// Rows with results in bf16, computed in f32: the first pass of some loops of kernels/forward_loops.hpp; included by
// kernels/forward_loops_impl.hpp. What it leaves open, about one in a thousand or fewer, is computed in f64.
//
// u = 2^-24. A number of f32 lies on a midpoint of bf16 where the lower half of its bits is 0x8000. So where these are
// farther from that than the error, in units of the last place, all numbers within the error round alike, and none is a
// tie. A share u of a number is less than its last place. Numbers near the ends of the range of f32 are left open, so
// that nothing here loses digits to subnormal numbers.
//
// Norms: 1 + w, the factor (within 2^-30 before it is rounded) and two products: below 4.1 u.
//
// Gates: g u has 16 bits. Of e^x, |x| < 80: k = round(x log2 e), |k| <= 116, r = (x - k kLn2Head) - k kLn2Tail. The
// first difference is exact, the second rounds by 2^-26, the product with kLn2Tail and its own error cost 2^-29 each: r
// is within 2^-25.6. The series to r^7 / 7! leaves 2^-27; its last step rounds by u of a number above 1 or u / 2 of one
// above 0.7, its product by u / 4, the step before by u / 3, all others together by less than u / 8. In all e^x is
// within 2.5 u, 1 + e^x and the quotient add one each: 4.5 u.
//
// Sums of two numbers of bf16: f32 loses something only of terms 2^16 apart, whose sum is next to the greater, far from
// a midpoint. So what f32 rounds is rounded again to the right number, ties included.
//
// Rotations: cosine and sine are within u / 2 (and 2^-50), each product and sum within u of the pair's magnitudes
// (apart or fused), the product with the factor and the ends of the interval likewise: below 6 u of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/backward_loops_impl.hpp"

namespace isologit::detail::kernels::loops {
namespace {

using Unsigned = std::uint32_t __attribute__((vector_size(8 * kWidth)));
using Shorts = std::uint16_t __attribute__((vector_size(4 * kWidth)));  // as many as Floats

constexpr std::int32_t kMagnitudeBits = 0x7FFFFFFF;
constexpr float kNear = 0x1p-100F;  // results nearer to 0 are left open, and farther away than 1 / kNear
constexpr float kLn2Head = 0x1.63p-1F;
constexpr float kLn2Tail = -0x1.bd0106p-13F;
constexpr float kFloatRound = 0x1.8p23F;  // as kRound

inline Floats magnitude(Floats x) { return bits_of<Floats>(bits_of<Ints>(x) & kMagnitudeBits); }

inline Ints usual(Floats x) {
  const Floats size = magnitude(x);
  return (size >= kNear) & (size <= 1 / kNear);
}

// Whether all lanes of a comparison hold.
inline bool all_hold(Ints mask) {
#if ISOLOGIT_LANES == 8
  return _mm512_movepi32_mask(bits_of<__m512i>(mask)) == 0xFFFF;
#elif ISOLOGIT_LANES == 4
  return _mm256_movemask_ps(bits_of<__m256>(mask)) == 0xFF;
#else
  std::int32_t all = -1;
  for (int lane = 0; lane < kFloats; ++lane) all &= mask[lane];
  return all != 0;
#endif
}

// Where results go: the bits of rounded numbers, and the list of those that are not settled.
class ShortResults {
 public:
  ShortResults(void* to, std::int64_t count) : to_(static_cast<char*>(to)), count_(count) {}

  // Of the elements from i on, at most as many as Floats holds.
  void put(std::int64_t i, Ints rounded) const {
    const auto shorts = __builtin_convertvector(bits_of<Unsigned>(rounded) >> 16, Shorts);
    if (i + kFloats <= count_) {
      std::memcpy(to_ + 2 * i, &shorts, sizeof shorts);
    } else {
      std::memcpy(to_ + 2 * i, &shorts, static_cast<std::size_t>(2 * (count_ - i)));
    }
  }

  static std::int64_t list(std::int64_t i, Ints settled, std::int64_t count, std::int32_t* open, std::int64_t opened) {
    if (all_hold(settled)) return opened;
    for (int lane = 0; lane < kFloats && i + lane < count; ++lane) {
      if (settled[lane] == 0) open[opened++] = static_cast<std::int32_t>(i + lane);
    }
    return opened;
  }

 private:
  char* to_;
  std::int64_t count_;
};

inline Ints rounded_up(Floats x) { return bits_of<Ints>(bits_of<Unsigned>(x) + 0x8000U); }

// Of values within kPlaces of their last places, 0 where `zero` says so: the bits, rounded, and whether that is proven.
template <std::int32_t kPlaces>
inline Ints settled_within(Floats value, Ints zero, Ints& rounded) {
  const Ints beyond = (bits_of<Ints>(value) & 0xFFFF) - 0x8000;
  const Ints apart = (beyond > kPlaces) | (beyond < -kPlaces);
  rounded = rounded_up(value) & ~zero;
  return (apart & usual(value)) | zero;
}

inline std::int64_t add_bf16(const float* x, const float* a, std::int64_t count, void* to, std::int32_t* open) {
  const ShortResults results(to, count);
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const Floats sum = load<Floats>(x + i) + load<Floats>(a + i);
    const auto bits = bits_of<Unsigned>(sum);
    const Ints zero = sum == 0;
    results.put(i, bits_of<Ints>(bits + 0x7FFFU + ((bits >> 16) & 1)) & ~zero);
    opened = ShortResults::list(i, usual(sum) | zero, count, open, opened);
  }
  return opened;
}

inline std::int64_t norm_bf16(float factor, bool one_plus_weight, const float* x, const float* weight,
                              std::int64_t count, void* to, std::int32_t* open) {
  const ShortResults results(to, count);
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const auto element = load<Floats>(x + i);
    const Floats scaled = element * factor;
    Floats w = splat(1);
    if (weight != nullptr) w = one_plus_weight ? 1 + load<Floats>(weight + i) : load<Floats>(weight + i);
    const Floats value = scaled * w;
    const Ints zero = ((element == 0) | (w == 0)) & (value == 0);
    Ints rounded;
    const Ints settled = settled_within<5>(value, zero, rounded) & (usual(scaled) | zero);
    results.put(i, rounded);
    opened = ShortResults::list(i, settled, count, open, opened);
  }
  return opened;
}

// e^x for |x| < 80.
inline Floats short_exp(Floats x) {
  const Floats shifted = multiply_add(x, splat(0x1.715476p0F), splat(kFloatRound));
  const Floats k = shifted - kFloatRound;
  const Floats r = multiply_add(k, splat(-kLn2Tail), multiply_add(k, splat(-kLn2Head), x));
  Floats p = splat(1.0F / 5040);
  for (const float coefficient : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    p = multiply_add(p, r, splat(coefficient));
  }
  return bits_of<Floats>(bits_of<Unsigned>(p) + (bits_of<Unsigned>(shifted) << 23));
}

inline std::int64_t silu_bf16(const float* gate, const float* up, std::int64_t count, void* to, std::int32_t* open) {
  const ShortResults results(to, count);
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const auto g = load<Floats>(gate + i);
    const Floats u = up == nullptr ? splat(1) : load<Floats>(up + i);
    const Floats product = g * u;
    const Floats value = product / (1 + short_exp(-g));
    const Ints inside = magnitude(g) < 80;
    const Ints zero = ((g == 0) | (u == 0)) & (product == 0);
    Ints rounded;
    const Ints settled = settled_within<6>(value, zero, rounded) & (usual(product) | zero) & inside;
    results.put(i, rounded);
    opened = ShortResults::list(i, settled, count, open, opened);
  }
  return opened;
}

// Rounds what lies within `error` of value; returns whether that is proven.
inline Ints settled_between(Floats value, Floats error, Ints& rounded) {
  const Floats low = value - error;
  const Floats high = value + error;
  const Ints zero = (value == 0) & (error == 0);
  rounded = rounded_up(low) & ~zero;
  const Ints same = ((rounded_up(low) ^ rounded_up(high)) & ~0xFFFF) == 0;
  return (same & usual(low) & usual(high)) | zero;
}

inline std::int64_t rotate_bf16(const float* a, const float* b, const float* cosine, const float* sine, float factor,
                                std::int64_t count, void* first, void* second, std::int32_t* open) {
  const ShortResults firsts(first, count);
  const ShortResults seconds(second, count);
  const float share = std::fabs(factor) * 0x1.8p-22F;
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kFloats) {
    const auto left = load<Floats>(a + i);
    const auto right = load<Floats>(b + i);
    const auto c = load<Floats>(cosine + i);
    const auto s = load<Floats>(sine + i);
    const Floats error = (magnitude(left) + magnitude(right)) * share;
    Ints one;
    Ints two;
    const Ints settled = settled_between(factor * (left * c - right * s), error, one) &
                         settled_between(factor * (right * c + left * s), error, two);
    firsts.put(i, one);
    seconds.put(i, two);
    opened = ShortResults::list(i, settled, count, open, opened);
  }
  return opened;
}

}  // namespace
}  // namespace isologit::detail::kernels::loops
