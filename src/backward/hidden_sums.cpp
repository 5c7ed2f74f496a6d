#include "backward/hidden_sums.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backward/tiles.hpp"

namespace isologit::gradient {
namespace {

// A block of the result, the unit of work: its sums (192 KB), its rows of dz (a piece is 96 KB) and its panels of the
// weight (a piece is 64 KB) stay in L2 while one passes the other.
constexpr std::int64_t kRows = 192;
constexpr std::int64_t kBlockColumns = 128;
// Rows a power of two apart would share few places in the caches.
constexpr std::int64_t kPadding = 8;

std::int64_t blocks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

}  // namespace

HiddenSums::HiddenSums(const Head& head, const BackwardRequest& request, std::span<const Row> rows,
                       const Kernels* table, bool exact, int threads)
    : head_(head),
      rows_(rows),
      table_(table),
      exact_(exact),
      threads_(threads),
      output_(request.dhidden),
      columns_(head.weight.cols),
      stride_(columns_ + kPadding) {
  if (!output_.wanted() || table == nullptr) return;
  const std::size_t elements = rows.size() * static_cast<std::size_t>(stride_);
  high_.assign(elements, 0);
  if (exact) {
    low_.assign(elements, 0);
    row_squares_.assign(rows.size(), 0);
    column_squares_.assign(static_cast<std::size_t>(columns_), 0);
  }
  for (int i = 0; i < threads; ++i) {
    workers_.push_back({Left(kRows), base::AlignedBuffer(kBlockColumns * kDepth * sizeof(float)),
                        base::AlignedBuffer(kBlockColumns * kDepth * sizeof(float)),
                        std::vector<float>(static_cast<std::size_t>(kBlockColumns / table->columns))});
  }
}

void HiddenSums::add_strip(std::int64_t first, std::int64_t count, const float* strip) {
  if (!output_.wanted() || table_ == nullptr) return;
  const std::int64_t row_blocks = blocks_of(static_cast<std::int64_t>(rows_.size()), kRows);
  for_each(threads_, row_blocks * blocks_of(columns_, kBlockColumns), [&](int worker, std::int64_t i) {
    add_block(workers_[static_cast<std::size_t>(worker)], i % row_blocks * kRows, i / row_blocks * kBlockColumns, first,
              count, strip);
  });
}

void HiddenSums::add_block(Worker& own, std::int64_t first_row, std::int64_t first_column, std::int64_t first_chunk,
                           std::int64_t chunks, const float* strip) {
  const auto all_rows = static_cast<std::int64_t>(rows_.size());
  const std::int64_t rows = std::min(kRows, all_rows - first_row);
  const std::int64_t columns = std::min(kBlockColumns, columns_ - first_column);
  const std::int64_t width = table_->columns;
  for (std::int64_t i = 0; i < 2 * chunks; ++i) {
    const std::int64_t id = first_chunk * kChunk + i * kDepth;
    const std::int64_t depth = std::min(kDepth, head_.vocab_size - id);
    if (depth <= 0) break;
    const float* dz = strip + (i / 2 * all_rows + first_row) * kChunk + i % 2 * kDepth;
    own.left.pack(dz, kChunk, 1, rows, depth);
    if (!exact_) own.left.scale();
    pack_weight(own, id, depth, first_column, columns);
    if (exact_ && first_row == 0) add_squares(own, depth, first_column, columns);
    for (std::int64_t r = 0; exact_ && first_column == 0 && r < rows; ++r) {
      for (std::int64_t k = 0; k < depth; ++k) {
        const auto x = static_cast<double>(dz[r * kChunk + k]);
        row_squares_[static_cast<std::size_t>(first_row + r)] += x * x;
      }
    }
    for (std::int64_t p = 0; p * width < columns; ++p) {
      const float* elements = own.panels.as<float>() + p * kDepth * width;
      const std::int64_t held = std::min(width, columns - p * width);
      const std::int64_t at = first_row * stride_ + first_column + p * width;
      if (!exact_) {
        multiply(*table_, own.left, {elements, own.greatest[static_cast<std::size_t>(p)], held}, high_.data() + at,
                 stride_);
        continue;
      }
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        const std::int64_t offset = at + g * kBlockRows * stride_;
        table_->multiply_exact(own.left.group(g), elements, depth, std::min(kBlockRows, rows - g * kBlockRows), held,
                               high_.data() + offset, low_.data() + offset, stride_);
      }
    }
  }
}

void HiddenSums::pack_weight(Worker& own, std::int64_t first, std::int64_t depth, std::int64_t column,
                             std::int64_t count) const {
  const std::int64_t width = table_->columns;
  const DType dtype = head_.weight.dtype;
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  // Copied first: what lies a power of two apart in memory would not stay in the caches from one panel to the next.
  char* rows = own.rows.as<char>();
  for (std::int64_t k = 0; k < depth; ++k) {
    const char* row = static_cast<const char*>(exact::row_data(head_.weight, first + k)) + column * size;
    std::memcpy(rows + k * kBlockColumns * size, row, static_cast<std::size_t>(count * size));
  }
  for (std::int64_t p = 0; p * width < count; ++p) {
    const void* from[kDepth];
    for (std::int64_t k = 0; k < depth; ++k) from[k] = rows + (k * kBlockColumns + p * width) * size;
    own.greatest[static_cast<std::size_t>(p)] = std::bit_cast<float>(table_->pack(
        from, dtype, depth, std::min(width, count - p * width), own.panels.as<float>() + p * kDepth * width));
  }
}

void HiddenSums::add_squares(const Worker& own, std::int64_t depth, std::int64_t column, std::int64_t count) {
  const std::int64_t width = table_->columns;
  for (std::int64_t c = 0; c < count; ++c) {
    const float* element = own.panels.as<float>() + c / width * kDepth * width + c % width;
    double& sum = column_squares_[static_cast<std::size_t>(column + c)];
    for (std::int64_t k = 0; k < depth; ++k) {
      const auto x = static_cast<double>(element[k * width]);
      sum += x * x;
    }
  }
}

std::vector<HiddenSums::Open> HiddenSums::finish() {
  std::vector<Open> open;
  if (!output_.wanted()) return open;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    if (table_ != nullptr && !exact_) {
      output_.store_row(*table_, rows_[r].index, 0, high_.data() + r * static_cast<std::size_t>(stride_), columns_);
      continue;
    }
    for (std::int64_t k = 0; k < columns_; ++k) {
      const std::size_t at = r * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(k);
      if (table_ == nullptr) {
        open.push_back({r, k, {}});
      } else {
        // Cauchy and Schwarz; the factor covers the roundings of the squares and roots.
        const double reach =
            std::sqrt(row_squares_[r]) * std::sqrt(column_squares_[static_cast<std::size_t>(k)]) * (1 + 0x1p-10);
        const double error = two_sum_error(head_.vocab_size, reach);
        if (!output_.store_certified(rows_[r].index, k, high_[at], low_[at], error)) open.push_back({r, k, {}});
      }
    }
  }
  return open;
}

void HiddenSums::add_strip(std::vector<Open>& open, std::span<const std::size_t> strip_rows, std::int64_t first,
                           std::int64_t count, const float* strip) const {
  const auto row_stride = static_cast<std::int64_t>(strip_rows.size()) * kChunk;
  for_each(threads_, static_cast<std::int64_t>(open.size()), [&](int, std::int64_t i) {
    Open& element = open[static_cast<std::size_t>(i)];
    const auto row = std::lower_bound(strip_rows.begin(), strip_rows.end(), element.row) - strip_rows.begin();
    for (std::int64_t c = 0; c < count; ++c) {
      const std::int64_t begin = (first + c) * kChunk;
      const float* dz = strip + c * row_stride + row * kChunk;
      for (std::int64_t j = 0; j < std::min(kChunk, head_.vocab_size - begin); ++j) {
        const float w =
            exact::load_element(exact::row_data(head_.weight, begin + j), head_.weight.dtype, element.column);
        element.sum.add(static_cast<double>(dz[j]) * static_cast<double>(w));
      }
    }
  });
}

void HiddenSums::finish(std::vector<Open>& open) const {
  for (Open& element : open) {
    const std::int64_t index = rows_[element.row].index;
    element.sum.add(output_.before(index, element.column));
    output_.store(index, element.column, element.sum.round(output_.dtype()));
  }
}

}  // namespace isologit::gradient
