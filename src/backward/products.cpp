#include "backward/products.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace isologit::detail::backward {
namespace {

constexpr float kLeast = 0x1p-120F;
constexpr float kMost = 0x1p118F;

// Whether f32 can hold the products of a row and a panel and their sums, with all bits that count.
bool is_safe(float a, float b) {
  const float product = a * b;
  return product <= kMost && (product >= kLeast || a == 0 || b == 0);
}

void multiply_wide(const PackedRows& left, const PackedPanel& panel, std::int64_t columns, std::int64_t row,
                   double* c) {
  const float* a = left.group(row / kernels::kGroupRows) + row % kernels::kGroupRows;
  for (std::int64_t j = 0; j < panel.columns; ++j) {
    double sum = 0;
    for (std::int64_t k = 0; k < left.depth; ++k) {
      sum += static_cast<double>(a[k * kernels::kGroupRows]) * static_cast<double>(panel.elements[k * columns + j]);
    }
    c[j] += sum * left.unit[static_cast<std::size_t>(row)];
  }
}

}  // namespace

void PackedRows::pack(const float* from, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t row_count,
                      std::int64_t depth_count) {
  rows = row_count;
  depth = depth_count;
  for (std::int64_t g = 0; g < groups_of(rows); ++g) {
    const std::int64_t held = std::min(kernels::kGroupRows, rows - g * kernels::kGroupRows);
    float* to = groups.data() + g * kernels::kGroupRows * kernels::kDepth;
    for (std::int64_t i = 0; i < kernels::kGroupRows; ++i) {
      std::uint32_t most = 0;
      const float* element = from + (g * kernels::kGroupRows + i) * row_stride;
      for (std::int64_t k = 0; k < depth; ++k, to += kernels::kGroupRows, element += depth_stride) {
        *to = 0;
        if (i >= held) continue;
        *to = *element;
        most = std::max(most, std::bit_cast<std::uint32_t>(*element) & 0x7FFFFFFFU);
      }
      to += 1 - depth * kernels::kGroupRows;
      greatest[static_cast<std::size_t>(g * kernels::kGroupRows + i)] = std::bit_cast<float>(most);
    }
  }
}

void PackedRows::scale() {
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto at = static_cast<std::size_t>(row);
    unit[at] = 1;
    const bool usual = greatest[at] >= 0x1p-60F && greatest[at] <= 0x1p60F;
    if (usual || greatest[at] == 0 || !std::isfinite(greatest[at])) continue;
    const int exponent = std::ilogb(greatest[at]);
    const double factor = std::ldexp(1.0, -exponent);
    float* element =
        groups.data() + row / kernels::kGroupRows * kernels::kGroupRows * kernels::kDepth + row % kernels::kGroupRows;
    for (std::int64_t k = 0; k < depth; ++k, element += kernels::kGroupRows) {
      *element = static_cast<float>(static_cast<double>(*element) * factor);
    }
    greatest[at] = std::ldexp(greatest[at], -exponent);
    unit[at] = std::ldexp(1.0, exponent);
  }
}

void multiply(const kernels::BackwardLoops& kernels, const PackedRows& left, const PackedPanel& panel, double* c,
              std::int64_t stride) {
  alignas(64) float block[kernels::kGroupRows * kernels::kMostColumns];
  for (std::int64_t g = 0; g < groups_of(left.rows); ++g) {
    const std::int64_t first = g * kernels::kGroupRows;
    const std::int64_t rows = std::min(kernels::kGroupRows, left.rows - first);
    bool safe[kernels::kGroupRows];
    std::int64_t count = 0;
    std::int64_t plain = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<std::size_t>(first + i);
      safe[i] = is_safe(left.greatest[at], panel.greatest);
      count += static_cast<std::int64_t>(safe[i]);
      plain += static_cast<std::int64_t>(safe[i] && left.unit[at] == 1);
    }
    if (count > 0) kernels.multiply(left.group(g), panel.elements, left.depth, block);
    double* to = c + first * stride;
    if (plain == rows) {
      kernels.add(block, rows, panel.columns, to, stride);
      continue;
    }
    for (std::int64_t i = 0; i < rows; ++i, to += stride) {
      if (!safe[i]) {
        multiply_wide(left, panel, kernels.columns, first + i, to);
        continue;
      }
      const double unit = left.unit[static_cast<std::size_t>(first + i)];
      const float* sums = block + i * kernels.columns;
      for (std::int64_t j = 0; j < panel.columns; ++j) to[j] += static_cast<double>(sums[j]) * unit;
    }
  }
}

}  // namespace isologit::detail::backward
