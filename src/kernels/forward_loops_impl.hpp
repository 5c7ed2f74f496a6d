// The loops of kernels/forward_loops.hpp in the vector types of GCC and clang; included by one file per instruction
// set, which defines ISOLOGIT_LANES, the number of doubles in a register. Unnamed namespace: see kernels/panel.hpp.
//
// u = 2^-53. Products of two f32 are exact in f64. The exponential (kernels/exp.hpp) is within 2^-50.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/angle.hpp"
#include "kernels/backward_loops_impl.hpp"
#include "kernels/bf16_rows_impl.hpp"
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

inline void turns(std::int64_t position, const float* frequencies, std::int64_t count, double* cosine, double* sine) {
  const auto high = static_cast<double>(position & ~std::int64_t{0xFFFF});
  const auto low = static_cast<double>(position & 0xFFFF);
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles frequency = widen(frequencies + i);
    const Doubles a = high * frequency;
    const Doubles b = low * frequency;
    const Doubles lifted = (a + b) * kTwoOverPi + kRound;
    const Doubles k = lifted - kRound;
    Doubles r = (a - k * kHalfPi[0]) + b;
    for (int part = 1; part < 4; ++part) r -= k * kHalfPi[part];
    const Doubles square = r * r;
    Doubles p = broadcast(kSineCoefficients[0]);
    Doubles q = broadcast(kCosineCoefficients[0]);
    for (int n = 1; n < 8; ++n) {
      p = kSineCoefficients[n] - square * p;
      q = kCosineCoefficients[n] - square * q;
    }
    const Doubles of_sine = r - r * square * p;
    const Doubles of_cosine = 1 - square * q;
    // k quarters of a turn.
    const auto quarters = bits_of<Longs>(lifted);
    const Longs odd = (quarters & 1) != 0;
    const Doubles x = select(odd, of_sine, of_cosine);
    const Doubles y = select(odd, of_cosine, of_sine);
    store(cosine + i, select(((quarters + 1) & 2) != 0, -x, x));
    store(sine + i, select((quarters & 2) != 0, -y, y));
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

inline double widen_squares(const float* from, std::int64_t count, double* to) {
  Doubles sum[kGroupVectors] = {};
  for (std::int64_t i = 0; i < count; i += kLaneGroup) {
    for (int c = 0; c < kGroupVectors; ++c) {
      const Doubles x = widen(from + i + c * kWidth);
      store(to + i + c * kWidth, x);
      sum[c] = multiply_add(x, x, sum[c]);
    }
  }
  for (int c = 1; c < kGroupVectors; ++c) sum[0] += sum[c];
  return sum_of(sum[0]);
}

// Sums of neighbouring lanes, those of a before those of b.
inline Doubles neighbours_added(Doubles a, Doubles b) {
#if ISOLOGIT_LANES == 8
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#elif ISOLOGIT_LANES == 4
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#else
  return __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
#endif
}

// The sums of the lanes of four registers.
inline void sums_of_four(Doubles a, Doubles b, Doubles c, Doubles d, double* to) {
  const Doubles ab = neighbours_added(a, b);
  const Doubles cd = neighbours_added(c, d);
  if constexpr (kWidth == 2) {
    store(to, ab);
    store(to + 2, cd);
  } else {
    Doubles all = neighbours_added(ab, cd);
    if constexpr (kWidth == 8) all = neighbours_added(all, all);
    std::memcpy(to, &all, 4 * sizeof(double));
  }
}

// Products of kRows and kColumns rows: so many registers hold sums, one chain each.
template <std::size_t kRows, std::size_t kColumns>
inline void multiply_rows(const double* a, const double* b, std::int64_t dim, double* s, std::int64_t stride) {
  constexpr auto kCount = static_cast<std::int64_t>(kRows);
  constexpr auto kAcross = static_cast<std::int64_t>(kColumns);
  Doubles sum[kRows][kColumns] = {};
  for (std::int64_t d = 0; d < dim; d += kWidth) {
    Doubles left[kRows];
    for (std::int64_t r = 0; r < kCount; ++r) left[r] = load<Doubles>(a + r * dim + d);
    for (std::int64_t j = 0; j < kAcross; ++j) {
      const auto right = load<Doubles>(b + j * dim + d);
      for (std::int64_t r = 0; r < kCount; ++r) sum[r][j] = multiply_add(left[r], right, sum[r][j]);
    }
  }
  for (std::int64_t r = 0; r < kCount; ++r) {
    if constexpr (kColumns == 1) {
      double same[4];
      sums_of_four(sum[r][0], sum[r][0], sum[r][0], sum[r][0], same);
      s[r * stride] = same[0];
    } else {
      for (std::int64_t j = 0; j < kAcross; j += 4) {
        sums_of_four(sum[r][j], sum[r][j + 1], sum[r][j + 2], sum[r][j + 3], s + r * stride + j);
      }
    }
  }
}

template <std::size_t kRows, std::size_t kColumns>
inline void products_of(const double* a, const double* b, std::int64_t count, std::int64_t dim, double* s,
                        std::int64_t stride) {
  constexpr auto kAcross = static_cast<std::int64_t>(kColumns);
  std::int64_t j = 0;
  for (; j + kAcross <= count; j += kAcross) multiply_rows<kRows, kColumns>(a, b + j * dim, dim, s + j, stride);
  for (; j < count; ++j) multiply_rows<kRows, 1>(a, b + j * dim, dim, s + j, stride);
}

constexpr std::int64_t kRowsTogether = kWidth == 8 ? 4 : 2;  // whose sums the registers hold

inline void products(const double* a, std::int64_t rows, const double* b, std::int64_t count, std::int64_t dim,
                     double* s, std::int64_t stride) {
  std::int64_t r = 0;
  for (; r + kRowsTogether <= rows; r += kRowsTogether) {
    products_of<kRowsTogether, 4>(a + r * dim, b, count, dim, s + r * stride, stride);
  }
  for (; r + 2 <= rows; r += 2) products_of<2, 4>(a + r * dim, b, count, dim, s + r * stride, stride);
  for (; r < rows; ++r) products_of<1, 8>(a + r * dim, b, count, dim, s + r * stride, stride);
}

inline double scores(double* s, std::int64_t count, double scale, double cap) {
  double greatest = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < count; ++i) s[i] *= scale;
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

template <std::size_t kRows, std::size_t kVectors>
inline void accumulate_columns(const double* p, std::int64_t stride, const double* values, std::int64_t dim,
                               std::int64_t count, double* sums) {
  constexpr auto kCount = static_cast<std::int64_t>(kRows);
  constexpr auto kAcross = static_cast<std::int64_t>(kVectors);
  Doubles sum[kRows][kVectors] = {};
  for (std::int64_t j = 0; j < count; ++j) {
    Doubles value[kVectors];
    for (std::int64_t c = 0; c < kAcross; ++c) value[c] = load<Doubles>(values + j * dim + c * kWidth);
    for (std::int64_t r = 0; r < kCount; ++r) {
      const Doubles weight = broadcast(p[r * stride + j]);
      for (std::int64_t c = 0; c < kAcross; ++c) sum[r][c] = multiply_add(weight, value[c], sum[r][c]);
    }
  }
  for (std::int64_t r = 0; r < kCount; ++r) {
    for (std::int64_t c = 0; c < kAcross; ++c) {
      double* to = sums + r * dim + c * kWidth;
      store(to, load<Doubles>(to) + sum[r][c]);
    }
  }
}

template <std::size_t kRows, std::size_t kVectors>
inline void accumulate_rows(const double* p, std::int64_t stride, const double* values, std::int64_t dim,
                            std::int64_t count, double* sums) {
  constexpr std::int64_t kAcross = static_cast<std::int64_t>(kVectors) * kWidth;
  std::int64_t d = 0;
  for (; d + kAcross <= dim; d += kAcross) {
    accumulate_columns<kRows, kVectors>(p, stride, values + d, dim, count, sums + d);
  }
  for (; d < dim; d += 2 * kWidth) accumulate_columns<kRows, 2>(p, stride, values + d, dim, count, sums + d);
}

inline void accumulate(const double* p, std::int64_t rows, std::int64_t stride, const double* values, std::int64_t dim,
                       std::int64_t count, double* sums) {
  std::int64_t r = 0;
  for (; r + kRowsTogether <= rows; r += kRowsTogether) {
    accumulate_rows<kRowsTogether, 4>(p + r * stride, stride, values, dim, count, sums + r * dim);
  }
  for (; r + 2 <= rows; r += 2) accumulate_rows<2, 4>(p + r * stride, stride, values, dim, count, sums + r * dim);
  for (; r < rows; ++r) accumulate_rows<1, 8>(p + r * stride, stride, values, dim, count, sums + r * dim);
}

constexpr ForwardLoops kForwardLoops{dot,       round,       add_rounded, norm,      norm_bf16, add_bf16,
                                     silu_bf16, rotate_bf16, turns,       rotate,    gate,      widen_squares,
                                     products,  scores,      weigh,       accumulate};

}  // namespace
}  // namespace isologit::detail::kernels::loops
