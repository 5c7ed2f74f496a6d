#include "backward/products.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace isologit::detail::backward {
namespace {

constexpr float kLeast = 0x1p-120F;
constexpr float kMost = 0x1p118F;

// Whether f32 can hold the products of a row and a panel and their sums, with all bits that count.
bool is_safe(float a, float b) {
  const float product = a * b;
  return product <= kMost && (product >= kLeast || a == 0 || b == 0);
}

// From the elements as they were before packing, which neither a scale nor parts have touched.
void multiply_wide(const PackedRows& left, const float* panel, std::int64_t width, std::int64_t columns,
                   std::int64_t row, double* c) {
  double sums[kernels::kMostColumns] = {};
  for (std::int64_t k = 0; k < left.depth; ++k) {
    const auto a = static_cast<double>(left.source[row * left.row_stride + k * left.depth_stride]);
    for (std::int64_t j = 0; j < columns; ++j) sums[j] += a * static_cast<double>(panel[k * width + j]);
  }
  for (std::int64_t j = 0; j < columns; ++j) c[j] += sums[j];
}

void multiply_parts(const PackedRows& left, const PackedPanel& panel, double* c, std::int64_t stride) {
  const auto* elements = reinterpret_cast<const char*>(panel.elements);
  const bool plain = !std::isnan(panel.greatest);
  if (plain) {
    left.parts->multiply(left.groups.as<char>(), left.greatest.data(), left.unit.data(), left.rows, left.depth,
                         elements, panel.columns, c, stride);
  }
  const auto is_done = [&](float greatest) { return plain && !std::isnan(greatest); };
  const auto end = left.greatest.begin() + left.rows;
  if (std::all_of(left.greatest.begin(), end, is_done)) return;
  float wide[kernels::kDepth * kernels::kPartColumns];
  for (std::int64_t k = 0; k < left.depth; ++k) {
    for (std::int64_t j = 0; j < panel.columns; ++j) {
      wide[k * kernels::kPartColumns + j] = kernels::element_of_panel(elements, k, j);
    }
  }
  for (std::int64_t row = 0; row < left.rows; ++row) {
    if (is_done(left.greatest[static_cast<std::size_t>(row)])) continue;
    multiply_wide(left, wide, kernels::kPartColumns, panel.columns, row, c + row * stride);
  }
}

}  // namespace

std::int64_t padded_rows(std::int64_t rows, const kernels::PartLoops* parts) {
  const std::int64_t group = parts != nullptr ? kernels::kPartRows : kernels::kGroupRows;
  return (rows + group - 1) / group * group;
}

PackedRows::PackedRows(std::int64_t most_rows, const kernels::PartLoops* part_loops, bool wide_elements)
    : parts(part_loops),
      wide(wide_elements),
      groups(static_cast<std::size_t>(padded_rows(most_rows, part_loops) * kernels::kDepth) *
             (wide ? sizeof(double) : sizeof(float))),
      greatest(static_cast<std::size_t>(padded_rows(most_rows, part_loops))),
      unit(static_cast<std::size_t>(padded_rows(most_rows, part_loops)), 1.0) {
  static_assert(kernels::kPartGroupBytes == kernels::kPartRows * kernels::kDepth * sizeof(float));
}

float pack_panel(const kernels::BackwardLoops& kernels, const kernels::PartLoops* parts, const void* const* rows,
                 DType dtype, std::int64_t depth, std::int64_t count, float* panel) {
  if (parts == nullptr) return std::bit_cast<float>(kernels.pack(rows, dtype, depth, count, panel));
  const bool plain = parts->pack_panel(rows, depth, count, reinterpret_cast<char*>(panel));
  return plain ? 1.0F : std::numeric_limits<float>::quiet_NaN();
}

void PackedRows::pack(const float* from, std::int64_t row_step, std::int64_t depth_step, std::int64_t row_count,
                      std::int64_t depth_count) {
  rows = row_count;
  depth = depth_count;
  source = from;
  row_stride = row_step;
  depth_stride = depth_step;
  if (parts != nullptr) {
    parts->pack_rows(from, row_stride, depth_stride, rows, depth, groups.as<char>(), greatest.data(), unit.data());
    return;
  }
  if (wide) {
    pack_groups<double>();
  } else {
    pack_groups<float>();
  }
}

template <class Element>
void PackedRows::pack_groups() {
  for (std::int64_t g = 0; g < groups_of(rows); ++g) {
    const std::int64_t held = std::min(kernels::kGroupRows, rows - g * kernels::kGroupRows);
    Element* to = groups.as<Element>() + g * kernels::kGroupRows * kernels::kDepth;
    for (std::int64_t i = 0; i < kernels::kGroupRows; ++i) {
      std::uint32_t most = 0;
      const float* element = source + (g * kernels::kGroupRows + i) * row_stride;
      for (std::int64_t k = 0; k < depth; ++k, to += kernels::kGroupRows, element += depth_stride) {
        *to = 0;
        if (i >= held) continue;
        *to = static_cast<Element>(*element);
        most = std::max(most, std::bit_cast<std::uint32_t>(*element) & 0x7FFFFFFFU);
      }
      to += 1 - depth * kernels::kGroupRows;
      greatest[static_cast<std::size_t>(g * kernels::kGroupRows + i)] = std::bit_cast<float>(most);
    }
  }
}

void PackedRows::scale() {
  if (parts != nullptr) return;
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto at = static_cast<std::size_t>(row);
    unit[at] = 1;
    const bool usual = greatest[at] >= 0x1p-60F && greatest[at] <= 0x1p60F;
    if (usual || greatest[at] == 0 || !std::isfinite(greatest[at])) continue;
    const int exponent = std::ilogb(greatest[at]);
    const double factor = std::ldexp(1.0, -exponent);
    float* element = groups.as<float>() + row / kernels::kGroupRows * kernels::kGroupRows * kernels::kDepth +
                     row % kernels::kGroupRows;
    bool lost = false;  // an element that f32 does not hold so small
    for (std::int64_t k = 0; k < depth; ++k, element += kernels::kGroupRows) {
      const double scaled = static_cast<double>(*element) * factor;
      lost = lost || (scaled != 0 && std::fabs(scaled) < 0x1p-126);
      *element = static_cast<float>(scaled);
    }
    greatest[at] = lost ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(greatest[at], -exponent);
    unit[at] = std::ldexp(1.0, exponent);
  }
}

void multiply(const kernels::BackwardLoops& kernels, const PackedRows& left, const PackedPanel& panel, double* c,
              std::int64_t stride) {
  if (left.parts != nullptr) return multiply_parts(left, panel, c, stride);
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
    if (count > 0) kernels.multiply(left.group<float>(g), panel.elements, left.depth, block);
    double* to = c + first * stride;
    if (plain == rows) {
      kernels.add(block, rows, panel.columns, to, stride);
      continue;
    }
    for (std::int64_t i = 0; i < rows; ++i, to += stride) {
      if (!safe[i]) {
        multiply_wide(left, panel.elements, kernels.columns, panel.columns, first + i, to);
        continue;
      }
      const double unit = left.unit[static_cast<std::size_t>(first + i)];
      const float* sums = block + i * kernels.columns;
      for (std::int64_t j = 0; j < panel.columns; ++j) to[j] += static_cast<double>(sums[j]) * unit;
    }
  }
}

void multiply_wide(const kernels::BackwardLoops& kernels, const PackedRows& left, const double* panel,
                   std::int64_t columns, double* high, double* low, std::int64_t stride) {
  alignas(64) double block[kernels::kGroupRows * kernels::kMostColumns];
  for (std::int64_t first = 0; first < left.rows; first += kernels::kGroupRows) {
    kernels.multiply_wide(left.group<double>(first / kernels::kGroupRows), panel, left.depth, block);
    const std::int64_t rows = std::min(kernels::kGroupRows, left.rows - first);
    kernels.add_wide(block, rows, columns, high + first * stride, low + first * stride, stride);
  }
}

double sum_of_squares(const float* elements, std::int64_t count) {
  double sums[4] = {};  // chains that do not wait for one another
  for (std::int64_t k = 0; k < count; ++k) {
    const auto x = static_cast<double>(elements[k]);
    sums[k % 4] += x * x;
  }
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

}  // namespace isologit::detail::backward
