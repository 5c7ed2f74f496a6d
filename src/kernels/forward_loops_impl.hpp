// The loops of kernels/forward_loops.hpp in the vector types of GCC and clang; included by one file per instruction
// set, which defines ISOLOGIT_LANES, the number of doubles in a register. Unnamed namespace: see kernels/panel.hpp.
//
// u = 2^-53. Products of two f32 are exact in f64. The exponential (kernels/exp.hpp) is within 2^-50.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/backward_loops_impl.hpp"
#include "kernels/forward_loops.hpp"

namespace isologit::detail::kernels::loops {
namespace {

constexpr double kUnit = 0x1p-53;
constexpr double kFarthestExponent = 700;  // e^700 is below 2^1010
constexpr int kGroupVectors = kLaneGroup / kWidth;

// Chains of count / 16 terms (a multiply-add rounds once; so does an addition of an exact product), then those of a
// lane and the lanes.
inline double dot(const float* a, const float* b, std::int64_t count) {
  Doubles sum[kGroupVectors] = {};
  for (std::int64_t i = 0; i < count; i += kLaneGroup) {
    for (int c = 0; c < kGroupVectors; ++c) {
      sum[c] = multiply_add(widen(a + i + c * kWidth), widen(b + i + c * kWidth), sum[c]);
    }
  }
  for (int step = kGroupVectors / 2; step > 0; step /= 2) {
    for (int c = 0; c < step; ++c) sum[c] += sum[c + step];
  }
  double result = 0;
  for (int lane = 0; lane < kWidth; ++lane) result += sum[0][lane];
  return result;
}

// Bits of f64 below those of the type, and its range: what lies outside is left open.
template <DType kDType>
struct Narrow {
  static constexpr int kDropped = kDType == DType::bf16 ? 45 : 42;
  static constexpr double kSmallest = kDType == DType::bf16 ? 0x1p-126 : 0x1p-14;
  static constexpr double kGreatest = kDType == DType::bf16 ? 0x1p127 : 0x1p15;
};

template <DType kDType>
inline Longs rounded_bits(Doubles x) {
  constexpr std::int64_t kHalf = std::int64_t{1} << (Narrow<kDType>::kDropped - 1);
  const auto bits = bits_of<Longs>(x);
  return (bits + (kHalf - 1) + ((bits >> Narrow<kDType>::kDropped) & 1)) & ~(2 * kHalf - 1);
}

// Writes the indices of the lanes that are not settled after the `opened` there are.
inline std::int64_t add_open(Longs settled, std::int64_t first, std::int64_t count, std::int32_t* open,
                             std::int64_t opened) {
  std::int64_t all = -1;
  for (int lane = 0; lane < kWidth; ++lane) all &= settled[lane];
  if (all != 0) return opened;
  for (int lane = 0; lane < kWidth && first + lane < count; ++lane) {
    if (settled[lane] == 0) open[opened++] = static_cast<std::int32_t>(first + lane);
  }
  return opened;
}

template <DType kDType>
std::int64_t round_loop(const double* values, const double* errors, std::int64_t count, float* to, std::int32_t* open) {
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const auto value = load<Doubles>(values + i);
    // The additions below round too.
    const Doubles error = load<Doubles>(errors + i) + magnitude(value) * (2 * kUnit);
    const Doubles low = value - error;
    const Doubles high = value + error;
    Longs settled;
    HalfFloats result;
    if constexpr (kDType == DType::f32) {
      result = narrow(low) + 0.0F;
      const HalfFloats other = narrow(high) + 0.0F;
      settled = __builtin_convertvector((result == other) & (result - result == 0), Longs);
    } else {
      const Longs bits = rounded_bits<kDType>(low);
      const Longs inside = (magnitude(low) >= Narrow<kDType>::kSmallest) &
                           (magnitude(high) >= Narrow<kDType>::kSmallest) &
                           (magnitude(low) < Narrow<kDType>::kGreatest) & (magnitude(high) < Narrow<kDType>::kGreatest);
      settled = ((bits == rounded_bits<kDType>(high)) & inside) | ((low == 0) & (high == 0));
      result = narrow(bits_of<Doubles>(bits) + 0.0);
    }
    store(to + i, result);
    opened = add_open(settled, i, count, open, opened);
  }
  return opened;
}

inline std::int64_t round(const double* values, const double* errors, std::int64_t count, DType dtype, float* to,
                          std::int32_t* open) {
  switch (dtype) {
    case DType::bf16: return round_loop<DType::bf16>(values, errors, count, to, open);
    case DType::f16: return round_loop<DType::f16>(values, errors, count, to, open);
    case DType::f32: break;
  }
  return round_loop<DType::f32>(values, errors, count, to, open);
}

// The sum rounded to odd (exact/two_sum.hpp), which is then rounded again.
template <DType kDType>
std::int64_t add_loop(const float* x, const float* a, double factor, std::int64_t count, float* to,
                      std::int32_t* open) {
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles left = widen(x + i);
    const Doubles right = factor * widen(a + i);  // exact
    const Doubles high = left + right;
    const Doubles share = high - left;
    const Doubles low = (left - (high - share)) + (right - share);
    const auto bits = bits_of<Longs>(high);
    const Longs inexact = (low != 0) & ((bits & 1) == 0);
    const Longs step = ((low > 0) == (high > 0)) & 2;  // 2 or 0: the next number away from 0 or towards it
    const auto odd = bits_of<Doubles>(bits + (inexact & (step - 1)));
    Longs settled;
    if constexpr (kDType == DType::f32) {
      store(to + i, narrow(odd) + 0.0F);
      settled = odd - odd == 0;
    } else {
      store(to + i, narrow(bits_of<Doubles>(rounded_bits<kDType>(odd)) + 0.0));
      settled =
          ((magnitude(odd) >= Narrow<kDType>::kSmallest) & (magnitude(odd) < Narrow<kDType>::kGreatest)) | (odd == 0);
    }
    opened = add_open(settled, i, count, open, opened);
  }
  return opened;
}

inline std::int64_t add_rounded(const float* x, const float* a, double factor, std::int64_t count, DType dtype,
                                float* to, std::int32_t* open) {
  switch (dtype) {
    case DType::bf16: return add_loop<DType::bf16>(x, a, factor, count, to, open);
    case DType::f16: return add_loop<DType::f16>(x, a, factor, count, to, open);
    case DType::f32: break;
  }
  return add_loop<DType::f32>(x, a, factor, count, to, open);
}

// The product has five roundings at most, 1 + w included.
inline void norm(const NormRow& row, const float* x, const float* weight, const float* bias, std::int64_t count,
                 double* values, double* errors) {
  const double relative = row.factor_error + 6 * kUnit;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    Doubles factor = broadcast(row.factor);
    if (weight != nullptr) {
      const Doubles w = widen(weight + i);
      factor *= row.one_plus_weight ? 1 + w : w;
    }
    const Doubles product = (widen(x + i) - row.shift) * factor;
    const Doubles value = bias != nullptr ? product + widen(bias + i) : product;
    store(values + i, value);
    store(errors + i,
          magnitude(product) * relative + magnitude(factor) * (row.shift_error * 1.0001) + magnitude(value) * kUnit);
  }
}

// Two products with errors of 2^-50 and a rounding, their sum, and the product with the factor.
inline void rotate(const float* a, const float* b, const double* cosine, const double* sine, double factor,
                   std::int64_t count, double* first, double* second, double* errors) {
  const double bound = std::fabs(factor) * 0x1.8p-50;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles left = widen(a + i);
    const Doubles right = widen(b + i);
    const auto c = load<Doubles>(cosine + i);
    const auto s = load<Doubles>(sine + i);
    store(first + i, factor * (left * c - right * s));
    store(second + i, factor * (right * c + left * s));
    store(errors + i, (magnitude(left) + magnitude(right)) * bound);
  }
}

// x is within |x| 2^-50, so e^-x within |x| 2^-50 and 2^-50 relatively, 1 + e^-x no worse; the rest is six roundings.
// Where x is past 700, e^-x is below half an ulp of 1; where it is before -700, the value is below 2^-700 and the
// bound is the value.
inline void gate(GateFunction function, double factor, double cubic, const float* gate, const float* up, double shift,
                 std::int64_t count, double* values, double* errors) {
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound);
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles g = widen(gate + i);
    const Doubles x = function == GateFunction::silu ? factor * g : factor * (g + cubic * (g * g * g));
    const Doubles size = magnitude(x);
    const Doubles held = select(size < kFarthestExponent, size, broadcast(kFarthestExponent));
    const Doubles e = exp_scaled(select(x < 0, held, -held), lift);
    const Doubles product = up != nullptr ? (widen(up + i) + shift) * g : g;
    const Doubles value = product / (1 + e);
    store(values + i, value);
    store(errors + i, magnitude(value) * select(x > -kFarthestExponent, 0x1p-49 + held * 0x1p-49, broadcast(1)));
  }
}

// cap tanh(x) as in fold_loops_impl.hpp, of an s that is known to some error: that error does not grow. Past 20 caps
// tanh is 1 within 2^-57.
inline Doubles capped(Doubles s, double cap) {
  const Doubles size = magnitude(s) / cap;
  const Doubles x = select(size < 20, size, broadcast(20));
  const Doubles e = exp_scaled(-2 * x, std::bit_cast<std::int64_t>(kRound));
  const Doubles result = cap * ((1 - e) / (1 + e));
  return select(s < 0, -result, result);
}

template <std::size_t kKeys>
inline void score_keys(const float* q, const float* keys, std::int64_t dim, double scale, double* s) {
  Doubles sum[kKeys][2] = {};
  for (std::int64_t d = 0; d < dim; d += 2 * kWidth) {
    const Doubles low = widen(q + d);
    const Doubles high = widen(q + d + kWidth);
    for (std::int64_t j = 0; j < static_cast<std::int64_t>(kKeys); ++j) {
      sum[j][0] = multiply_add(low, widen(keys + j * dim + d), sum[j][0]);
      sum[j][1] = multiply_add(high, widen(keys + j * dim + d + kWidth), sum[j][1]);
    }
  }
  for (std::int64_t j = 0; j < static_cast<std::int64_t>(kKeys); ++j) {
    const Doubles both = sum[j][0] + sum[j][1];
    double total = 0;
    for (int lane = 0; lane < kWidth; ++lane) total += both[lane];
    s[j] = scale * total;
  }
}

inline double scores(const float* q, const float* keys, std::int64_t dim, std::int64_t count, double scale, double cap,
                     double* s) {
  std::int64_t j = 0;
  for (; j + 4 <= count; j += 4) score_keys<4>(q, keys + j * dim, dim, scale, s + j);
  for (; j < count; ++j) score_keys<1>(q, keys + j * dim, dim, scale, s + j);
  double greatest = -std::numeric_limits<double>::infinity();
  if (cap != 0) {
    for (std::int64_t i = 0; i < count; i += kWidth) store(s + i, capped(load<Doubles>(s + i), cap));
  }
  for (std::int64_t i = 0; i < count; ++i) greatest = s[i] > greatest ? s[i] : greatest;
  return greatest;
}

inline double weigh(double* s, std::int64_t count, std::int64_t scale) {
  const double lowest = (static_cast<double>(scale) - 1000) * 0.6931471805599453;
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound) + scale;
  for (std::int64_t j = count; j % kWidth != 0; ++j) s[j] = lowest;  // what lies there may be anything
  for (std::int64_t j = 0; j < count; j += kWidth) {
    const auto x = load<Doubles>(s + j);
    store(s + j, exp_scaled(select(x > lowest, x, broadcast(lowest)), lift));
  }
  double sum = 0;
  for (std::int64_t j = 0; j < count; ++j) sum += s[j];
  return sum;
}

template <std::size_t kVectors>
inline void accumulate_columns(const double* p, const float* values, std::int64_t dim, std::int64_t count,
                               double* sums) {
  Doubles sum[kVectors] = {};
  for (std::int64_t j = 0; j < count; ++j) {
    const Doubles weight = broadcast(p[j]);
    for (std::int64_t c = 0; c < static_cast<std::int64_t>(kVectors); ++c)
      sum[c] = multiply_add(weight, widen(values + j * dim + c * kWidth), sum[c]);
  }
  for (std::int64_t c = 0; c < static_cast<std::int64_t>(kVectors); ++c)
    store(sums + c * kWidth, load<Doubles>(sums + c * kWidth) + sum[c]);
}

inline void accumulate(const double* p, const float* values, std::int64_t dim, std::int64_t count, double* sums) {
  constexpr int kMany = 8;
  std::int64_t d = 0;
  for (; d + kMany * kWidth <= dim; d += kMany * kWidth) {
    accumulate_columns<kMany>(p, values + d, dim, count, sums + d);
  }
  for (; d < dim; d += 2 * kWidth) accumulate_columns<2>(p, values + d, dim, count, sums + d);
}

constexpr ForwardLoops kForwardLoops{dot, round, add_rounded, norm, rotate, gate, scores, weigh, accumulate};

}  // namespace
}  // namespace isologit::detail::kernels::loops
