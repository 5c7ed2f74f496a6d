// The loops of kernels/backward_loops.hpp in the vector types of GCC and clang; included by one file per instruction
// set, which defines ISOLOGIT_LANES, the number of doubles in a register. Unnamed namespace: see kernels/panel.hpp.
//
// Errors of dz, u = 2^-53. d = top - z is one rounding, d u, and so is e^-d relatively; exp_scaled adds 8 u, the factor
// 4 u, two products with them 2 u, the bracket's sum and product, the sum with the mean and the end of the interval 4
// u: kRelative and 2 u d. The errors of total and mean_gap are in the row. Of sigma = 4s / (1 + s)^2, s = e^-x, x = 2
// |z0| / softcap <= 690: x has two roundings, 2 u x, and |d ln sigma / dx| <= 1; exp_scaled adds 8 u, what follows 5 u:
// kOfSoftcap and 4 u x. The bracket b + c (d - mean_gap) is the only place where terms cancel; its error is bounded by
// those of its terms. Past d = 690 dz is below 2^-400 whatever the parameters, as it is for x > 690, so clamping both
// there changes no f32.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact/element.hpp"
#include "kernels/backward_loops.hpp"
#include "kernels/fold_loops_impl.hpp"

namespace isologit::detail::kernels::loops {
namespace {

constexpr std::int64_t kColumns = 2 * kFloats;
constexpr int kParts = 4;  // registers of doubles that hold as many
constexpr double kRelative = 0x1p-48;
constexpr double kOfSoftcap = 0x1p-49;
constexpr double kFurthest = 690;

template <class V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof value);
}

inline Doubles magnitude(Doubles x) { return select(x < 0, -x, x); }

// x - 0 is x for every x, which lets the compiler see a plain broadcast.
inline Floats splat(float x) { return x - Floats{}; }

#if defined(__AVX512F__)
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__FMA__)
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
#else
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
#endif

template <bool kExact, bool kSoftcap>
std::int64_t dz_loop(const DzRow& row, const float* z0, const float* z, std::int64_t count, float* dz,
                     std::int32_t* open) {
  const std::int64_t lift = std::bit_cast<std::int64_t>(kRound);
  const double b_error = row.b_error;
  const double c = std::fabs(row.c);
  std::int64_t opened = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const Doubles d0 = row.top - __builtin_convertvector(load<HalfFloats>(z + i), Doubles);
    const Doubles d = select(d0 < kFurthest, d0, broadcast(kFurthest));
    Doubles scale = exp_scaled(-d, lift) * row.inverse_total * row.factor;
    Doubles mean = broadcast(row.mean * row.factor);
    Doubles relative = d * 0x1p-52 + (kRelative + row.error);
    if constexpr (kSoftcap) {
      const Doubles x0 = magnitude(__builtin_convertvector(load<HalfFloats>(z0 + i), Doubles)) * row.two_over_softcap;
      const Doubles x = select(x0 < kFurthest, x0, broadcast(kFurthest));
      const Doubles s = exp_scaled(-x, lift);
      const Doubles sigma = 4 * s / ((1 + s) * (1 + s));
      scale *= sigma;
      mean *= sigma;
      relative += x * 0x1p-51 + kOfSoftcap;
    }
    const Doubles bracket = row.b + row.c * (d - row.mean_gap);
    const Doubles value = scale * bracket + mean;
    const Doubles error =
        magnitude(scale) * (magnitude(bracket) * relative + b_error + c * (d * 0x1p-50 + row.mean_gap_error)) +
        magnitude(mean) * relative;
    Longs settled;
    HalfFloats result;
    if constexpr (kExact) {
      result = __builtin_convertvector(value - error, HalfFloats) + 0.0F;
      const HalfFloats high = __builtin_convertvector(value + error, HalfFloats) + 0.0F;
      settled = __builtin_convertvector(result == high, Longs);
    } else {
      result = __builtin_convertvector(value, HalfFloats) + 0.0F;
      settled = (error <= magnitude(value) * 0x1p-19) | (magnitude(value) + error <= 0x1p-151);
    }
    store(dz + i, result);
    std::int64_t all = -1;
    for (int lane = 0; lane < kWidth; ++lane) all &= settled[lane];
    if (all == 0) {
      for (int lane = 0; lane < kWidth && i + lane < count; ++lane) {
        if (settled[lane] == 0) open[opened++] = static_cast<std::int32_t>(i + lane);
      }
    }
  }
  return opened;
}

std::int64_t dz_of_row(const DzRow& row, const float* z0, const float* z, std::int64_t count, bool exact, float* dz,
                       std::int32_t* open) {
  if (row.two_over_softcap != 0) {
    return exact ? dz_loop<true, true>(row, z0, z, count, dz, open) : dz_loop<false, true>(row, z0, z, count, dz, open);
  }
  return exact ? dz_loop<true, false>(row, z0, z, count, dz, open) : dz_loop<false, false>(row, z0, z, count, dz, open);
}

template <DType kType>
inline void widen_row(const void* from, std::int64_t count, float* to) {
  for (std::int64_t j = 0; j < count; ++j) to[j] = exact::load_element(from, kType, j);
}

template <DType kType>
std::uint32_t pack_rows(const void* const* rows, std::int64_t depth, std::int64_t count, float* panel) {
  Ints greatest = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    float* to = panel + k * kColumns;
    if (count == kColumns) {
      widen_row<kType>(rows[k], kColumns, to);  // a constant count: vector code
    } else {
      widen_row<kType>(rows[k], count, to);
      for (std::int64_t j = count; j < kColumns; ++j) to[j] = 0;
    }
    for (int half = 0; half < 2; ++half) {
      const Ints bits = load<Ints>(to + half * kFloats) & 0x7FFFFFFF;
      greatest = bits > greatest ? bits : greatest;
    }
  }
  std::int32_t most = 0;
  for (int lane = 0; lane < kFloats; ++lane) most = greatest[lane] > most ? greatest[lane] : most;
  return static_cast<std::uint32_t>(most);
}

std::uint32_t pack(const void* const* rows, DType dtype, std::int64_t depth, std::int64_t count, float* panel) {
  return exact::with_dtype(dtype, [&]<DType kDType>() { return pack_rows<kDType>(rows, depth, count, panel); });
}

void multiply(const float* group, const float* panel, std::int64_t depth, float* block) {
  Floats left[kGroupRows];
  Floats right[kGroupRows];
#pragma GCC unroll 6  // or it becomes a call that clears memory
  for (std::int64_t i = 0; i < kGroupRows; ++i) left[i] = right[i] = Floats{};
  for (std::int64_t k = 0; k < depth; ++k) {
    const auto b_left = load<Floats>(panel + k * kColumns);
    const auto b_right = load<Floats>(panel + k * kColumns + kFloats);
    for (std::int64_t i = 0; i < kGroupRows; ++i) {
      const Floats a = splat(group[k * kGroupRows + i]);
      left[i] = multiply_add(a, b_left, left[i]);
      right[i] = multiply_add(a, b_right, right[i]);
    }
  }
  for (std::int64_t i = 0; i < kGroupRows; ++i) {
    store(block + i * kColumns, left[i]);
    store(block + i * kColumns + kFloats, right[i]);
  }
}

void add(const float* block, std::int64_t rows, std::int64_t columns, double* c, std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* from = block + i * kColumns;
    double* to = c + i * stride;
    if (columns == kColumns) {
      for (std::int64_t j = 0; j < kColumns; ++j) to[j] += static_cast<double>(from[j]);
    } else {
      for (std::int64_t j = 0; j < columns; ++j) to[j] += static_cast<double>(from[j]);
    }
  }
}

// In the bits: the exponent's bias changed, the significand rounded from 52 bits to 7.
bool to_bf16(const double* x, std::int64_t count, std::uint16_t* to) {
  using Shorts = std::uint16_t __attribute__((vector_size(2 * kWidth)));
  constexpr auto kNothing = std::bit_cast<std::int64_t>(0x1p-134);  // half of the least number
  constexpr auto kLeast = std::bit_cast<std::int64_t>(0x1p-126);
  constexpr auto kMost = std::bit_cast<std::int64_t>(0x1p127);
  if (count % kWidth != 0) return false;
  Longs outside = {};
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const auto bits = load<Longs>(x + i);
    const Longs size = bits & INT64_MAX;
    outside |= ((size > kNothing) & (size < kLeast)) | (size >= kMost);
    const Longs rounded = size + ((std::int64_t{1} << 44) - 1) + (size >> 45 & 1);
    const Longs moved = (rounded >> 45) - ((1023 - 127) << 7);
    store(to + i, __builtin_convertvector((size > kNothing) & (moved | (bits >> 48 & 0x8000)), Shorts));
  }
  std::int64_t any = 0;
  for (int lane = 0; lane < kWidth; ++lane) any |= outside[lane];
  return any == 0;
}

void pack_wide(const void* const* rows, DType dtype, std::int64_t depth, std::int64_t count, double* panel,
               double* squares) {
  Doubles sums[kParts] = {};
  exact::with_dtype(dtype, [&]<DType kType>() {
    float row[kColumns] = {};
    for (std::int64_t k = 0; k < depth; ++k, panel += kColumns) {
      if (count == kColumns) {
        widen_row<kType>(rows[k], kColumns, row);  // a constant count: vector code
      } else {
        widen_row<kType>(rows[k], count, row);
      }
      for (int part = 0; part < kParts; ++part) {
        const Doubles x = widen(row + part * kWidth);
        store(panel + part * kWidth, x);
        sums[part] = multiply_add(x, x, sums[part]);
      }
    }
  });
  std::memcpy(squares, sums, sizeof sums);
}

// Two registers of columns at a time: twelve sums, which sixteen registers hold as well.
void multiply_wide(const double* group, const double* panel, std::int64_t depth, double* block) {
  for (int half = 0; half < kParts; half += 2) {
    Doubles left[kGroupRows];
    Doubles right[kGroupRows];
#pragma GCC unroll 6  // or it becomes a call that clears memory
    for (std::int64_t i = 0; i < kGroupRows; ++i) left[i] = right[i] = Doubles{};
    for (std::int64_t k = 0; k < depth; ++k) {
      const auto b_left = load<Doubles>(panel + k * kColumns + half * kWidth);
      const auto b_right = load<Doubles>(panel + k * kColumns + (half + 1) * kWidth);
      for (std::int64_t i = 0; i < kGroupRows; ++i) {
        const Doubles a = group[k * kGroupRows + i] - Doubles{};  // as splat
        left[i] = multiply_add(a, b_left, left[i]);
        right[i] = multiply_add(a, b_right, right[i]);
      }
    }
    for (std::int64_t i = 0; i < kGroupRows; ++i) {
      store(block + i * kColumns + half * kWidth, left[i]);
      store(block + i * kColumns + (half + 1) * kWidth, right[i]);
    }
  }
}

// high + low += x by two-sum.
template <class V>
inline void add_two_sum(V x, V& high, V& low) {
  const V sum = high + x;
  const V share = sum - high;
  low += (high - (sum - share)) + (x - share);
  high = sum;
}

void add_wide(const double* block, std::int64_t rows, std::int64_t columns, double* high, double* low,
              std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i, block += kColumns, high += stride, low += stride) {
    if (columns < kColumns) {
      for (std::int64_t j = 0; j < columns; ++j) add_two_sum(block[j], high[j], low[j]);
      continue;
    }
    for (std::int64_t j = 0; j < kColumns; j += kWidth) {
      auto h = load<Doubles>(high + j);
      auto l = load<Doubles>(low + j);
      add_two_sum(load<Doubles>(block + j), h, l);
      store(high + j, h);
      store(low + j, l);
    }
  }
}

// The sum of before and high is whole in two doubles. Of the ends the additions round, 2^-53 each: of the rest and the
// error, which the factors below cover with what the bound can spare, and of the end itself, 2^-52 of the sum.
void enclose(const double* before, const double* high, const double* low, double reach, const double* reaches,
             std::int64_t count, double* lower, double* upper) {
  for (std::int64_t j = 0; j < count; j += kWidth) {
    auto sum = load<Doubles>(before + j);
    auto rest = load<Doubles>(low + j);
    add_two_sum(load<Doubles>(high + j), sum, rest);
    const Doubles slack = reach * load<Doubles>(reaches + j) + magnitude(rest) * 0x1p-50 + magnitude(sum) * 0x1p-52;
    store(lower + j, sum + (rest - slack));
    store(upper + j, sum + (rest + slack));
  }
}

constexpr BackwardLoops kBackwardLoops{kColumns, dz_of_row, pack,          multiply, add,
                                       to_bf16,  pack_wide, multiply_wide, add_wide, enclose};

}  // namespace
}  // namespace isologit::detail::kernels::loops
