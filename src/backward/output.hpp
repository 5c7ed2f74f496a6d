// Elements of a caller's gradient buffer.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>

#include "backward/kernels.hpp"
#include "exact/element.hpp"
#include "exact/rounding.hpp"
#include "isologit/backward.hpp"

namespace isologit::gradient {

constexpr const exact::Format& format_of(DType dtype) {
  return dtype == DType::f32 ? exact::kF32 : dtype == DType::bf16 ? exact::kBf16 : exact::kF16;
}

// x rounded once to `dtype`, ties to even; zero is +0 and NaN the quiet one. Exact as a double.
inline double narrow(double x, DType dtype) {
  if (std::isnan(x)) return static_cast<double>(exact::quiet_nan());
  const float near = static_cast<float>(x);
  if (dtype == DType::f32 || std::isinf(near)) return static_cast<double>(near) + 0.0;
  if (x == 0) return 0.0;
  if (dtype == DType::bf16) {
    // Rounded to odd first, so that the second rounding sees what the first dropped.
    auto bits = std::bit_cast<std::uint32_t>(near);
    const double excess = std::fabs(static_cast<double>(near)) - std::fabs(x);
    if (excess != 0 && (bits & 1U) == 0) bits += excess > 0 ? 0xFFFFFFFFU : 1U;
    bits += 0x7FFFU + ((bits >> 16) & 1U);
    return static_cast<double>(std::bit_cast<float>(bits & 0xFFFF0000U)) + 0.0;
  }
  const exact::Format& format = format_of(dtype);
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(x), &exponent);
  const auto leading = static_cast<std::uint64_t>(std::ldexp(fraction, 64));
  return exact::round_to(format, x < 0, {leading, exponent - 1, false});
}

// high + low rounded to a double whose lowest bit is set wherever it was not exact: rounding that once more to a format
// of at most 50 bits is rounding high + low once.
inline double to_odd(double high, double low) {
  const double sum = high + low;
  const double share = sum - high;
  const double error = (high - (sum - share)) + (low - share);
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if (error == 0 || (bits & 1U) != 0 || !std::isfinite(sum)) return sum;
  return std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

class Output {
 public:
  explicit Output(const GradientOutput& output) : output_(output) {}

  bool wanted() const { return output_.data != nullptr; }
  bool accumulates() const { return output_.accumulate; }
  DType dtype() const { return output_.dtype; }

  // What the sum is added to.
  double before(std::int64_t row, std::int64_t column) const {
    if (!output_.accumulate) return 0;
    return static_cast<double>(exact::load_element(output_.data, output_.dtype, row * output_.row_stride + column));
  }

  // value is one of the output's type.
  void store(std::int64_t row, std::int64_t column, double value) const {
    char* at = static_cast<char*>(output_.data) +
               (row * output_.row_stride + column) * static_cast<std::int64_t>(dtype_size(output_.dtype));
    const float f32 = static_cast<float>(value);
    if (output_.dtype == DType::f32) {
      std::memcpy(at, &f32, sizeof f32);
      return;
    }
    const std::uint16_t bits = output_.dtype == DType::bf16 ? bf16_bits(f32) : f16_bits(f32);
    std::memcpy(at, &bits, sizeof bits);
  }

  // Stores before + sums[i], rounded, as elements column + i.
  void store_row(const Kernels& kernels, std::int64_t row, std::int64_t column, const double* sums,
                 std::int64_t count) const {
    void* at = static_cast<char*>(output_.data) +
               (row * output_.row_stride + column) * static_cast<std::int64_t>(dtype_size(output_.dtype));
    if (output_.dtype == DType::f32) {
      return output_.accumulate ? store_f32<true>(at, sums, count) : store_f32<false>(at, sums, count);
    }
    if (output_.dtype == DType::bf16 && !output_.accumulate) {
      std::uint16_t elements[kMostColumns];
      if (count <= kMostColumns && kernels.to_bf16(sums, count, elements)) {
        std::memcpy(at, elements, static_cast<std::size_t>(count) * sizeof elements[0]);
        return;
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      store(row, column + i, narrow(before(row, column + i) + sums[i], output_.dtype));
    }
  }

  // Stores before + high + low, known to be within `error`, where that proves its rounding; else returns false.
  bool store_certified(std::int64_t row, std::int64_t column, double high, double low, double error) const {
    const double old = before(row, column);
    if (!std::isfinite(high) || !std::isfinite(old)) {
      store(row, column, narrow(high + old, output_.dtype));
      return true;
    }
    const double sum = high + old;
    const double share = sum - high;
    const double rest = low + ((high - (sum - share)) + (old - share));
    const double slack = error + std::fabs(rest) * 0x1p-51;
    const double least = narrow(to_odd(sum, rest - slack), output_.dtype);
    if (least != narrow(to_odd(sum, rest + slack), output_.dtype)) return false;
    store(row, column, least);
    return true;
  }

 private:
  template <bool kAccumulate>
  static void store_f32(void* to, const double* sums, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      float value = 0;
      char* at = static_cast<char*>(to) + i * static_cast<std::int64_t>(sizeof value);
      double sum = sums[i];
      if constexpr (kAccumulate) {
        std::memcpy(&value, at, sizeof value);
        sum += static_cast<double>(value);
      }
      value = static_cast<float>(sum) + 0.0F;
      value = value == value ? value : exact::quiet_nan();
      std::memcpy(at, &value, sizeof value);
    }
  }

  static std::uint16_t bf16_bits(float x) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16); }

  static std::uint16_t f16_bits(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
    const std::uint32_t size = bits & 0x7FFFFFFFU;
    if (size > 0x7F800000U) return 0x7E00U;
    if (size == 0x7F800000U) return sign | 0x7C00U;
    // Below 2^-14 in units of 2^-24; above by its own exponent field.
    if (size < 0x38800000U)
      return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::fabs(x) * 0x1p24F));
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>((size - 0x38000000U) >> 13));
  }

  GradientOutput output_;
};

}  // namespace isologit::gradient
