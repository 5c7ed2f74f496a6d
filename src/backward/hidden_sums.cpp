#include "backward/hidden_sums.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/asking.hpp"
#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "exact/ball.hpp"
#include "exact/encoded.hpp"
#include "exact/two_sum.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::backward {
namespace {

// A block of the result, the unit of work: its sums (192 KB), its rows of dz (a piece is 96 KB) and its panels of the
// weight (a piece is 64 KB) stay in L2 while one passes the other.
constexpr std::int64_t kRows = 192;
constexpr std::int64_t kBlockColumns = 128;
// Rows a power of two apart would share few places in the caches.
constexpr std::int64_t kPadding = 8;

std::int64_t blocks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

// Whether products of it keep their relative precision in f32 arithmetic.
bool is_normal(double x, float near) { return x == near || (std::isfinite(near) && std::fabs(near) >= 0x1p-126F); }

// Any thread may set it.
void set(std::uint8_t& flag) { std::atomic_ref(flag).store(1, std::memory_order_relaxed); }

}  // namespace

HiddenSums::HiddenSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows,
                       const kernels::Target& target, bool exact, int threads, const base::Parties& parties)
    : head_(head),
      rows_(rows),
      loops_(target.backward_loops()),
      part_loops_(parts_for(target.part_loops(), exact || head.encoded.encoding != Encoding::none, head.weight.dtype)),
      exact_(exact),
      threads_(threads),
      parties_(parties),
      output_(request.dhidden),
      hidden_rows_(request.hidden.rows),
      columns_(head.weight.cols),
      stride_(columns_ + kPadding),
      parts_(exact ? exact::parts_of(head.encoded) : 1),
      own_{0, rows.size()},
      open_rows_(rows.size(), 0),
      open_columns_(static_cast<std::size_t>(columns_), 0),
      row_blocks_(blocks_of(static_cast<std::int64_t>(rows.size()), kRows)),
      block_rows_(padded_rows(blocks_of(static_cast<std::int64_t>(rows.size()), row_blocks_), part_loops_)) {
  if (!output_.wanted() || loops_ == nullptr) return;
  const std::size_t elements = rows.size() * static_cast<std::size_t>(stride_);
  high_.assign(elements, 0);
  if (exact) {
    low_.assign(elements, 0);
    row_reaches_.assign(rows.size(), 0);
    column_squares_.assign(static_cast<std::size_t>(stride_), 0);
  }
  for (int i = 0; i < threads; ++i) {
    workers_.push_back({base::AlignedBuffer(kBlockColumns * kernels::kDepth * (exact ? sizeof(double) : sizeof(float))),
                        base::AlignedBuffer(kBlockColumns * kernels::kDepth * sizeof(float)),
                        std::vector<float>(static_cast<std::size_t>(kBlockColumns / loops_->columns)),
                        std::vector<double>(kBlockColumns)});
  }
}

void HiddenSums::add_strip(std::int64_t first, std::int64_t count, const float* dz) {
  if (!output_.wanted() || loops_ == nullptr) return;
  const std::int64_t id = first * kChunk;
  const Strip strip{dz, id, blocks_of(std::min(count * kChunk, head_.vocab_size - id), kernels::kDepth)};
  const std::int64_t lefts = strip.pieces * row_blocks_;
  while (packed_dz_.size() < static_cast<std::size_t>(lefts)) packed_dz_.emplace_back(block_rows_, part_loops_, exact_);
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
  // The parts of an element that is not 0 may be, and 0 times infinity is NaN.
  for (std::int64_t r = 0; parts_ > 1 && r < rows_of(row_block); ++r) {
    if (std::isinf(left.greatest[static_cast<std::size_t>(r)])) {
      set(open_rows_[static_cast<std::size_t>(row_block * block_rows_ + r)]);
    }
  }
  if (!exact_) left.scale();
}

void HiddenSums::add_block(Packing& own, const Strip& strip, std::int64_t row_block, std::int64_t first_column) {
  const std::int64_t columns = std::min(kBlockColumns, columns_ - first_column);
  const std::int64_t width = loops_->columns;
  if (exact_ && first_column == 0) add_row_reaches(strip, row_block);
  for (std::int64_t i = 0; i < strip.pieces * parts_; ++i) {
    base::go_on_or_throw();
    const std::int64_t piece = i / parts_;
    const std::int64_t depth = depth_of(strip, piece);
    const PackedRows& left = packed_dz_[static_cast<std::size_t>(piece * row_blocks_ + row_block)];
    pack_weight(own, i % parts_, strip.first_id + piece * kernels::kDepth, depth, first_column, columns);
    for (std::int64_t c = 0; exact_ && row_block == 0 && c < columns; ++c) {
      double& most = column_squares_[static_cast<std::size_t>(first_column + c)];
      most = std::max(most, own.squares[static_cast<std::size_t>(c)]);
    }
    for (std::int64_t p = 0; p * width < columns; ++p) {
      const std::int64_t held = std::min(width, columns - p * width);
      const std::int64_t at = row_block * block_rows_ * stride_ + first_column + p * width;
      const std::int64_t panel = p * kernels::kDepth * width;
      if (exact_) {
        multiply_wide(*loops_, left, own.panels.as<double>() + panel, held, high_.data() + at, low_.data() + at,
                      stride_);
      } else {
        multiply(*loops_, left, {own.panels.as<float>() + panel, own.greatest[static_cast<std::size_t>(p)], held},
                 high_.data() + at, stride_);
      }
    }
  }
}

void HiddenSums::add_row_reaches(const Strip& strip, std::int64_t row_block) {
  for (std::int64_t piece = 0; piece < strip.pieces; ++piece) {
    const float* dz = dz_of(strip, piece, row_block);
    for (std::int64_t r = 0; r < rows_of(row_block); ++r) {
      row_reaches_[static_cast<std::size_t>(row_block * block_rows_ + r)] +=
          std::sqrt(sum_of_squares(dz + r * kChunk, depth_of(strip, piece)));
    }
  }
}

void HiddenSums::decode_part(std::int64_t part, std::int64_t id, std::int64_t column, std::int64_t count, float* to) {
  double numbers[kBlockColumns];
  exact::decode(head_, id, column, count, numbers);
  for (std::int64_t k = 0; k < count; ++k) {
    std::array<float, 3> parts = {static_cast<float>(numbers[k])};
    const bool fits = exact_ ? exact::split(numbers[k], parts_, parts.data(), 1)
                             : !std::isfinite(numbers[k]) || is_normal(numbers[k], parts[0]);
    if (!fits) set(open_columns_[static_cast<std::size_t>(column + k)]);
    to[k] = fits ? parts[static_cast<std::size_t>(part)] : 0;
  }
}

void HiddenSums::pack_weight(Packing& own, std::int64_t part, std::int64_t first, std::int64_t depth,
                             std::int64_t column, std::int64_t count) {
  const std::int64_t width = loops_->columns;
  const bool encoded = head_.encoded.encoding != Encoding::none;
  const DType dtype = encoded ? DType::f32 : head_.weight.dtype;
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  // Copied first: what lies a power of two apart in memory would not stay in the caches from one panel to the next.
  char* rows = own.rows.as<char>();
  for (std::int64_t k = 0; k < depth; ++k) {
    char* to = rows + k * kBlockColumns * size;
    if (encoded) {
      decode_part(part, first + k, column, count, reinterpret_cast<float*>(to));
      continue;
    }
    const char* row = static_cast<const char*>(exact::row_data(head_.weight, first + k)) + column * size;
    std::memcpy(to, row, static_cast<std::size_t>(count * size));
  }
  for (std::int64_t p = 0; p * width < count; ++p) {
    const void* from[kernels::kDepth];
    for (std::int64_t k = 0; k < depth; ++k) from[k] = rows + (k * kBlockColumns + p * width) * size;
    const std::int64_t held = std::min(width, count - p * width);
    const std::int64_t at = p * kernels::kDepth * width;
    if (exact_) {
      loops_->pack_wide(from, dtype, depth, held, own.panels.as<double>() + at, own.squares.data() + p * width);
    } else {
      own.greatest[static_cast<std::size_t>(p)] =
          pack_panel(*loops_, part_loops_, from, dtype, depth, held, own.panels.as<float>() + at);
    }
  }
}

void HiddenSums::add_low_rank(const FactorTable& g) {
  if (!output_.wanted() || g.rank == 0) return;
  g_ = &g;
  if (loops_ == nullptr) return;
  const MatrixView& view = head_.lora.a;
  std::vector<float> a(static_cast<std::size_t>(g.rank * columns_));
  for (std::int64_t i = 0; i < g.rank * columns_; ++i) {
    const std::int64_t column = i % columns_;
    const float element = exact::load_element(exact::row_data(view, i / columns_), view.dtype, column);
    a[static_cast<std::size_t>(i)] = element;
    // Some parts of g may be 0, and 0 times infinity is NaN.
    if (exact_ && !std::isfinite(element)) open_columns_[static_cast<std::size_t>(column)] = 1;
    if (exact_) {
      double& most = column_squares_[static_cast<std::size_t>(column)];
      most = std::max(most, static_cast<double>(element) * static_cast<double>(element));
    }
  }
  base::parallel_for(threads_, static_cast<std::int64_t>(rows_.size()),
                     [&](int, std::int64_t row) { add_low_rank(g, a, static_cast<std::size_t>(row)); });
}

void HiddenSums::add_low_rank(const FactorTable& g, const std::vector<float>& a, std::size_t row) {
  double* high = &high_[row * static_cast<std::size_t>(stride_)];
  for (std::int64_t j = 0; j < g.rank; ++j) {
    const WideFactor& factor = g.at(row, j);
    const float* elements = &a[static_cast<std::size_t>(j * columns_)];
    if (!factor.plain) {
      open_rows_[row] = 1;
    } else if (!exact_) {
      for (std::int64_t k = 0; k < columns_; ++k) high[k] += factor.near * static_cast<double>(elements[k]);
    } else {
      double* low = &low_[row * static_cast<std::size_t>(stride_)];
      for (const double part : factor.parts) {
        for (std::int64_t k = 0; k < columns_; ++k) {
          const exact::TwoSum sum = exact::two_sum(high[k], part * static_cast<double>(elements[k]));
          high[k] = sum.high;
          low[k] += sum.low;
        }
      }
      row_reaches_[row] += std::fabs(factor.near) * (1 + 0x1p-20);
    }
  }
}

std::vector<HiddenSums::Open> HiddenSums::finish() {
  std::vector<Open> open;
  if (!output_.wanted()) return open;
  const bool any_open = std::find(open_columns_.begin(), open_columns_.end(), 1) != open_columns_.end();
  for (std::size_t r = own_.first; r < own_.last; ++r) {
    base::go_on_or_throw();
    if (loops_ == nullptr || any_open || open_rows_[r] != 0) {
      finish_by_element(r, open);
    } else if (!exact_) {
      output_.store_row(*loops_, rows_[r].index, 0, high_.data() + r * static_cast<std::size_t>(stride_), columns_);
    } else {
      finish_certified(r, 0, columns_, open);
    }
  }
  share_list(open);
  return open;
}

void HiddenSums::finish_by_element(std::size_t row, std::vector<Open>& open) const {
  for (std::int64_t k = 0; k < columns_; ++k) {
    if (loops_ == nullptr || is_open(row, k)) {
      open.push_back({row, k, {}, {}});
    } else if (exact_) {
      finish_certified(row, k, 1, open);
    } else {
      const double sum = output_.before(rows_[row].index, k) +
                         high_[row * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(k)];
      output_.store(rows_[row].index, k, exact::narrow(sum, output_.dtype()));
    }
  }
}

// A piece's sum of |dz||w| is at most the product of the two norms within it (Cauchy and Schwarz), all pieces' sums are
// at most the row's sum of norms times the column's greatest one, a row counting once for each part. A term of the
// low-rank addition is a piece of its own. The factor covers the roundings of the squares and roots.
void HiddenSums::finish_certified(std::size_t row, std::int64_t column, std::int64_t count,
                                  std::vector<Open>& open) const {
  const std::int64_t terms = parties_.vocab_size() * parts_ + merged_ + (g_ == nullptr ? 0 : g_->rank) * 3;
  double error = certified_error(kernels::kDepth, terms);
  if (g_ != nullptr) error += 0x1p-69;  // what the parts of g leave out
  const double reach = error * row_reaches_[row] * static_cast<double>(parts_) * (1 + 0x1p-10);
  double reaches[kernels::kMostColumns] = {};
  for (std::int64_t first = column; first < column + count; first += kernels::kMostColumns) {
    const std::int64_t held = std::min(kernels::kMostColumns, column + count - first);
    for (std::int64_t k = 0; k < held; ++k) {
      reaches[k] = std::sqrt(column_squares_[static_cast<std::size_t>(first + k)]);
    }
    const std::size_t at = row * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(first);
    output_.store_row_certified(*loops_, rows_[row].index, first, high_.data() + at, low_.data() + at, reach, reaches,
                                held, [&](std::int64_t k) {
                                  open.push_back({row, first + k, {}, {}});
                                });
  }
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
        if (head_.encoded.encoding != Encoding::none) {
          double w = 0;
          exact::decode(head_, begin + j, element.column, 1, &w);
          add_wide(element, dz[j], w);
          continue;
        }
        const float w =
            exact::load_element(exact::row_data(head_.weight, begin + j), head_.weight.dtype, element.column);
        element.sum.add(static_cast<double>(dz[j]) * static_cast<double>(w));
      }
    }
  });
}

void HiddenSums::add_wide(Open& element, float dz, double weight) {
  const auto d = static_cast<double>(dz);
  float parts[3];
  if (!std::isfinite(dz) || !std::isfinite(weight)) {
    element.sum.add(d * weight);
  } else if (exact::split(weight, 3, parts, 1)) {
    for (const float part : parts) element.sum.add(d * static_cast<double>(part));
  } else if (dz != 0) {
    element.wide = exact::add(element.wide,
                              exact::multiply(exact::BigFloat::from_double(d), exact::BigFloat::from_double(weight)));
  }
}

void HiddenSums::finish(std::vector<Open>& open) const {
  for (Open& element : open) {
    base::go_on_or_throw();
    if (element.row < own_.first || element.row >= own_.last) continue;
    const std::int64_t index = rows_[element.row].index;
    const exact::Format& format = exact::format_of(output_.dtype());
    const double before = output_.before(index, element.column);
    if (g_ == nullptr && element.wide.is_zero()) {
      element.sum.add(before);
      output_.store(index, element.column, element.sum.round(format));
      continue;
    }
    DefinedSum sum;
    sum.add(element.sum.finite());
    sum.add(element.wide);
    sum.add_special(element.sum.special());
    for (std::int64_t j = 0; g_ != nullptr && j < g_->rank; ++j) {
      const MatrixView& a = head_.lora.a;
      sum.add(g_->at(element.row, j).exact,
              static_cast<double>(exact::load_element(exact::row_data(a, j), a.dtype, element.column)));
    }
    output_.store(index, element.column, sum.round(before, format));
  }
}

}  // namespace isologit::detail::backward
