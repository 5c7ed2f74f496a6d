#include "backward/hidden_sums.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/asking.hpp"
#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "exact/two_sum.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::backward {
namespace {

// A block of the result, the unit of work: its sums (192 KB), its rows of dz (a piece is 96 KB) and its panels of the
// weight (a piece is 64 KB) stay in L2 while one passes the other.
constexpr std::int64_t kRows = 192;
constexpr std::int64_t kBlockColumns = 128;
// ActiveRows a power of two apart would share few places in the caches.
constexpr std::int64_t kPadding = 8;
// Parties hand each other that many sums at a time.
constexpr std::size_t kSharedElements = std::size_t{1} << 20;

std::int64_t blocks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

}  // namespace

HiddenSums::HiddenSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows,
                       const kernels::Target& target, bool exact, int threads, const base::Parties& parties)
    : head_(head),
      rows_(rows),
      loops_(target.backward_loops()),
      parts_(parts_for(target.part_loops(), exact, head.weight.dtype)),
      exact_(exact),
      threads_(threads),
      parties_(parties),
      output_(request.dhidden),
      columns_(head.weight.cols),
      stride_(columns_ + kPadding),
      row_blocks_(blocks_of(static_cast<std::int64_t>(rows.size()), kRows)),
      block_rows_(padded_rows(blocks_of(static_cast<std::int64_t>(rows.size()), row_blocks_), parts_)) {
  if (!output_.wanted() || loops_ == nullptr) return;
  const std::size_t elements = rows.size() * static_cast<std::size_t>(stride_);
  high_.assign(elements, 0);
  if (exact) {
    low_.assign(elements, 0);
    row_squares_.assign(rows.size(), 0);
    column_squares_.assign(static_cast<std::size_t>(columns_), 0);
  }
  for (int i = 0; i < threads; ++i) {
    workers_.push_back({base::AlignedBuffer(kBlockColumns * kernels::kDepth * sizeof(float)),
                        base::AlignedBuffer(kBlockColumns * kernels::kDepth * sizeof(float)),
                        std::vector<float>(static_cast<std::size_t>(kBlockColumns / loops_->columns))});
  }
}

void HiddenSums::add_strip(std::int64_t first, std::int64_t count, const float* dz) {
  if (!output_.wanted() || loops_ == nullptr) return;
  const std::int64_t id = first * kChunk;
  const Strip strip{dz, id, blocks_of(std::min(count * kChunk, head_.vocab_size - id), kernels::kDepth)};
  const std::int64_t lefts = strip.pieces * row_blocks_;
  while (packed_dz_.size() < static_cast<std::size_t>(lefts)) packed_dz_.emplace_back(block_rows_, parts_);
  base::parallel_for(threads_, lefts, [&](int, std::int64_t i) { pack_dz(strip, i / row_blocks_, i % row_blocks_); });
  base::parallel_for(threads_, row_blocks_ * blocks_of(columns_, kBlockColumns), [&](int worker, std::int64_t i) {
    add_block(workers_[static_cast<std::size_t>(worker)], strip, i % row_blocks_, i / row_blocks_ * kBlockColumns);
  });
}

const float* HiddenSums::dz_of(const Strip& strip, std::int64_t piece, std::int64_t row_block) const {
  const auto rows = static_cast<std::int64_t>(rows_.size());
  return strip.dz + (piece / 2 * rows + row_block * block_rows_) * kChunk + piece % 2 * kernels::kDepth;
}

std::int64_t HiddenSums::depth_of(const Strip& strip, std::int64_t piece) const {
  return std::min(kernels::kDepth, head_.vocab_size - strip.first_id - piece * kernels::kDepth);
}

std::int64_t HiddenSums::rows_of(std::int64_t row_block) const {
  return std::min(block_rows_, static_cast<std::int64_t>(rows_.size()) - row_block * block_rows_);
}

void HiddenSums::pack_dz(const Strip& strip, std::int64_t piece, std::int64_t row_block) {
  PackedRows& left = packed_dz_[static_cast<std::size_t>(piece * row_blocks_ + row_block)];
  left.pack(dz_of(strip, piece, row_block), kChunk, 1, rows_of(row_block), depth_of(strip, piece));
  if (!exact_) left.scale();
}

void HiddenSums::add_block(Packing& own, const Strip& strip, std::int64_t row_block, std::int64_t first_column) {
  const std::int64_t rows = rows_of(row_block);
  const std::int64_t columns = std::min(kBlockColumns, columns_ - first_column);
  const std::int64_t width = loops_->columns;
  if (exact_ && first_column == 0) add_row_squares(strip, row_block);
  for (std::int64_t piece = 0; piece < strip.pieces; ++piece) {
    const std::int64_t depth = depth_of(strip, piece);
    const PackedRows& left = packed_dz_[static_cast<std::size_t>(piece * row_blocks_ + row_block)];
    pack_weight(own, strip.first_id + piece * kernels::kDepth, depth, first_column, columns);
    if (exact_ && row_block == 0) add_column_squares(own, depth, first_column, columns);
    for (std::int64_t p = 0; p * width < columns; ++p) {
      const float* elements = own.panels.as<float>() + p * kernels::kDepth * width;
      const std::int64_t held = std::min(width, columns - p * width);
      const std::int64_t at = row_block * block_rows_ * stride_ + first_column + p * width;
      if (!exact_) {
        multiply(*loops_, left, {elements, own.greatest[static_cast<std::size_t>(p)], held}, high_.data() + at,
                 stride_);
        continue;
      }
      for (std::int64_t g = 0; g < groups_of(rows); ++g) {
        const std::int64_t offset = at + g * kernels::kGroupRows * stride_;
        loops_->multiply_exact(left.group(g), elements, depth,
                               std::min(kernels::kGroupRows, rows - g * kernels::kGroupRows), held,
                               high_.data() + offset, low_.data() + offset, stride_);
      }
    }
  }
}

void HiddenSums::add_row_squares(const Strip& strip, std::int64_t row_block) {
  for (std::int64_t piece = 0; piece < strip.pieces; ++piece) {
    const float* dz = dz_of(strip, piece, row_block);
    for (std::int64_t r = 0; r < rows_of(row_block); ++r) {
      double& sum = row_squares_[static_cast<std::size_t>(row_block * block_rows_ + r)];
      for (std::int64_t k = 0; k < depth_of(strip, piece); ++k) {
        const auto x = static_cast<double>(dz[r * kChunk + k]);
        sum += x * x;
      }
    }
  }
}

void HiddenSums::pack_weight(Packing& own, std::int64_t first, std::int64_t depth, std::int64_t column,
                             std::int64_t count) const {
  const std::int64_t width = loops_->columns;
  const DType dtype = head_.weight.dtype;
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  // Copied first: what lies a power of two apart in memory would not stay in the caches from one panel to the next.
  char* rows = own.rows.as<char>();
  for (std::int64_t k = 0; k < depth; ++k) {
    const char* row = static_cast<const char*>(exact::row_data(head_.weight, first + k)) + column * size;
    std::memcpy(rows + k * kBlockColumns * size, row, static_cast<std::size_t>(count * size));
  }
  for (std::int64_t p = 0; p * width < count; ++p) {
    const void* from[kernels::kDepth];
    for (std::int64_t k = 0; k < depth; ++k) from[k] = rows + (k * kBlockColumns + p * width) * size;
    own.greatest[static_cast<std::size_t>(p)] =
        pack_panel(*loops_, parts_, from, dtype, depth, std::min(width, count - p * width),
                   own.panels.as<float>() + p * kernels::kDepth * width);
  }
}

void HiddenSums::add_column_squares(const Packing& own, std::int64_t depth, std::int64_t column, std::int64_t count) {
  const std::int64_t width = loops_->columns;
  for (std::int64_t c = 0; c < count; ++c) {
    const float* element = own.panels.as<float>() + c / width * kernels::kDepth * width + c % width;
    double& sum = column_squares_[static_cast<std::size_t>(column + c)];
    for (std::int64_t k = 0; k < depth; ++k) {
      const auto x = static_cast<double>(element[k * width]);
      sum += x * x;
    }
  }
}

void HiddenSums::share() {
  if (!output_.wanted() || loops_ == nullptr || !parties_.several()) return;
  const auto stride = static_cast<std::size_t>(stride_);
  const auto columns = static_cast<std::size_t>(columns_);
  const std::size_t block = std::max<std::size_t>(kSharedElements / columns, 1);
  for (std::size_t first = 0; first < rows_.size(); first += block) {
    const std::size_t last = std::min(first + block, rows_.size());
    const auto each = [&](const auto& visit) {
      for (std::size_t r = first; r < last; ++r) {
        for (std::size_t k = 0; k < columns; ++k) visit(r * stride + k);
      }
    };
    base::ByteWriter own;
    each([&](std::size_t at) {
      own.put(high_[at]);
      if (exact_) own.put(low_[at]);
      high_[at] = 0;
      if (exact_) low_[at] = 0;
    });
    merged_ = 0;
    parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
      bool read = true;
      merged_ += 2;  // another party's sum counts as two more terms
      each([&](std::size_t at) {
        double high = 0;
        double low = 0;
        read = read && bytes.get(high) && (!exact_ || bytes.get(low));
        if (!exact_) {
          high_[at] += high;
          return;
        }
        const exact::TwoSum sum = exact::two_sum(high_[at], high);
        high_[at] = sum.high;
        low_[at] += sum.low + low;
      });
      return read;
    });
  }
  if (!exact_) return;
  share_squares(row_squares_);
  share_squares(column_squares_);
}

void HiddenSums::share_squares(std::vector<double>& squares) const {
  base::ByteWriter own;
  for (const double sum : squares) own.put(sum);
  std::fill(squares.begin(), squares.end(), 0);
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    double other = 0;
    for (double& sum : squares) {
      if (!bytes.get(other)) return false;
      sum += other;
    }
    return true;
  });
}

void HiddenSums::share(std::vector<Open>& open) const {
  if (!parties_.several()) return;
  base::ByteWriter own;
  for (Open& element : open) {
    element.sum.write(own);
    element.sum = {};
  }
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    return std::all_of(open.begin(), open.end(), [&](Open& element) { return element.sum.add_read(bytes); });
  });
}

std::vector<HiddenSums::Open> HiddenSums::finish() {
  std::vector<Open> open;
  if (!output_.wanted()) return open;
  const std::int64_t terms = parties_.vocab_size() + merged_;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    base::go_on_or_throw();
    if (loops_ != nullptr && !exact_) {
      output_.store_row(*loops_, rows_[r].index, 0, high_.data() + r * static_cast<std::size_t>(stride_), columns_);
      continue;
    }
    for (std::int64_t k = 0; k < columns_; ++k) {
      const std::size_t at = r * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(k);
      if (loops_ == nullptr) {
        open.push_back({r, k, {}});
      } else {
        // Cauchy and Schwarz; the factor covers the roundings of the squares and roots.
        const double reach =
            std::sqrt(row_squares_[r]) * std::sqrt(column_squares_[static_cast<std::size_t>(k)]) * (1 + 0x1p-10);
        const double error = two_sum_error(terms, reach);
        if (!output_.store_certified(rows_[r].index, k, high_[at], low_[at], error)) open.push_back({r, k, {}});
      }
    }
  }
  return open;
}

void HiddenSums::add_strip(std::vector<Open>& open, std::span<const std::size_t> strip_rows, std::int64_t first,
                           std::int64_t count, const float* strip) const {
  const auto row_stride = static_cast<std::int64_t>(strip_rows.size()) * kChunk;
  base::parallel_for(threads_, static_cast<std::int64_t>(open.size()), [&](int, std::int64_t i) {
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
    base::go_on_or_throw();
    const std::int64_t index = rows_[element.row].index;
    element.sum.add(output_.before(index, element.column));
    output_.store(index, element.column, element.sum.round(exact::format_of(output_.dtype())));
  }
}

}  // namespace isologit::detail::backward
