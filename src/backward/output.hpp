// Elements of a caller's gradient buffer.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "exact/two_sum.hpp"
#include "isologit/backward.hpp"
#include "kernels/backward_loops.hpp"

namespace isologit::detail::backward {

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
    exact::store_element(at, output_.dtype, value);
  }

  // Fetches the lines of `count` elements that are stored soon; they may lie past the buffer.
  void fetch(std::int64_t row, std::int64_t column, std::int64_t count) const {
    const auto size = static_cast<std::int64_t>(dtype_size(output_.dtype));
    const auto first = reinterpret_cast<std::uintptr_t>(output_.data) +
                       static_cast<std::uintptr_t>((row * output_.row_stride + column) * size);
    for (std::int64_t byte = 0; byte < count * size; byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(first + static_cast<std::uintptr_t>(byte)), 1);
    }
  }

  // Stores before + sums[i], rounded, as elements column + i.
  void store_row(const kernels::BackwardLoops& kernels, std::int64_t row, std::int64_t column, const double* sums,
                 std::int64_t count) const {
    void* at = static_cast<char*>(output_.data) +
               (row * output_.row_stride + column) * static_cast<std::int64_t>(dtype_size(output_.dtype));
    if (output_.dtype == DType::f32) {
      return output_.accumulate ? store_f32<true>(at, sums, count) : store_f32<false>(at, sums, count);
    }
    if (output_.dtype == DType::bf16 && !output_.accumulate) {
      std::uint16_t elements[kernels::kMostColumns];
      if (count <= kernels::kMostColumns && kernels.to_bf16(sums, count, elements)) {
        std::memcpy(at, elements, static_cast<std::size_t>(count) * sizeof elements[0]);
        return;
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      store(row, column + i, exact::narrow(before(row, column + i) + sums[i], output_.dtype));
    }
  }

  // Stores before + high + low, known to be within `error`, where that proves its rounding; else returns false.
  bool store_certified(std::int64_t row, std::int64_t column, double high, double low, double error) const {
    const double old = before(row, column);
    if (!std::isfinite(high) || !std::isfinite(old)) {
      store(row, column, exact::narrow(high + old, output_.dtype));
      return true;
    }
    const auto [sum, dropped] = exact::two_sum(high, old);
    const double rest = low + dropped;
    const double slack = error + std::fabs(rest) * 0x1p-51;
    const double least = exact::narrow(exact::to_odd(sum, rest - slack), output_.dtype);
    if (least != exact::narrow(exact::to_odd(sum, rest + slack), output_.dtype)) return false;
    store(row, column, least);
    return true;
  }

  // Stores before + high[i] + low[i] as elements column + i, each known to be within reach * reaches[i], where that
  // proves their rounding; open(i) gets the others. All buffers are read up to a multiple of kernels::kEnclosed.
  template <class Open>
  void store_row_certified(const kernels::BackwardLoops& kernels, std::int64_t row, std::int64_t column,
                           const double* high, const double* low, double reach, const double* reaches,
                           std::int64_t count, const Open& open) const {
    double old[kernels::kMostColumns] = {};
    double lower[kernels::kMostColumns];
    double upper[kernels::kMostColumns];
    for (std::int64_t i = 0; output_.accumulate && i < count; ++i) old[i] = before(row, column + i);
    kernels.enclose(old, high, low, reach, reaches, count, lower, upper);
    void* at = static_cast<char*>(output_.data) +
               (row * output_.row_stride + column) * static_cast<std::int64_t>(dtype_size(output_.dtype));
    if (output_.dtype == DType::bf16) {
      std::uint16_t least[kernels::kMostColumns];
      std::uint16_t most[kernels::kMostColumns];
      const auto bytes = static_cast<std::size_t>(count) * sizeof least[0];
      if (kernels.to_bf16(lower, count, least) && kernels.to_bf16(upper, count, most) &&
          std::memcmp(least, most, bytes) == 0) {
        std::memcpy(at, least, bytes);
        return;
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      if (output_.dtype == DType::f32) {
        const float value = static_cast<float>(lower[i]) + 0.0F;
        if (value == static_cast<float>(upper[i]) && std::isfinite(value)) {
          std::memcpy(static_cast<char*>(at) + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
          continue;
        }
      }
      if (!store_certified(row, column + i, high[i], low[i], reach * reaches[i])) open(i);
    }
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

  GradientOutput output_;
};

}  // namespace isologit::detail::backward
