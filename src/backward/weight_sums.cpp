#include "backward/weight_sums.hpp"

#include <algorithm>
#include <cmath>

#include "base/asking.hpp"
#include "base/thread_pool.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::backward {
namespace {

// Rows of the gradient whose lines are fetched before they are stored: one id's is a miss of its own, and few of these
// stores are under way at a time. dweight of 256 rows, V=20000, bf16, logits and dz included, CPU ms before and after
// in turns: H=1024 fast 145 and 126, exact 320 and 297; H=4096 (V=6000) fast 146 and 128. 8, 32 and 48 rows ahead: the
// same.
constexpr std::int64_t kRowsAhead = 16;

}  // namespace

WeightSums::WeightSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows,
                       const kernels::Target& target, bool exact, int threads)
    : request_(request),
      rows_(rows),
      loops_(target.backward_loops()),
      part_loops_(parts_for(target.part_loops(), exact, request.hidden.dtype)),
      exact_(exact),
      vocab_(head.vocab_size),
      columns_(head.weight.cols),
      weight_(request.dweight),
      bias_(request.dbias) {
  if (!weight_.wanted() || loops_ == nullptr) return;
  pack_hidden(threads);
  workers_.resize(static_cast<std::size_t>(threads));
  for (Accumulators& worker : workers_) {
    for (std::int64_t i = 0; i < depth_pieces(); ++i) worker.pieces.emplace_back(kChunk, part_loops_, exact);
    worker.high.resize(static_cast<std::size_t>(kChunk * (exact ? loops_->columns : kernels::kMostColumns)));
    if (exact) worker.low.resize(worker.high.size());
    if (exact) worker.squares.resize(static_cast<std::size_t>(kChunk));
  }
}

std::int64_t WeightSums::depth_pieces() const {
  return (static_cast<std::int64_t>(rows_.size()) + kernels::kDepth - 1) / kernels::kDepth;
}

PackedPanel WeightSums::panel(std::int64_t piece, std::int64_t index) const {
  const std::int64_t panels = (columns_ + loops_->columns - 1) / loops_->columns;
  const std::int64_t at = piece * panels + index;
  return {hidden_.as<float>() + at * kernels::kDepth * loops_->columns, greatest_[static_cast<std::size_t>(at)],
          std::min(loops_->columns, columns_ - index * loops_->columns)};
}

void WeightSums::pack_hidden(int threads) {
  const std::int64_t width = loops_->columns;
  const std::int64_t panels = (columns_ + width - 1) / width;
  hidden_ = base::AlignedBuffer(static_cast<std::size_t>(depth_pieces() * panels * kernels::kDepth * width) *
                                (exact_ ? sizeof(double) : sizeof(float)));
  greatest_.resize(static_cast<std::size_t>(depth_pieces() * panels));
  if (exact_) reaches_.assign(static_cast<std::size_t>(panels * width), 0);
  const DType dtype = request_.hidden.dtype;
  base::parallel_for(threads, panels, [&](int, std::int64_t p) {
    const std::int64_t held = std::min(width, columns_ - p * width);
    for (std::int64_t piece = 0; piece < depth_pieces(); ++piece) {
      const std::int64_t first = piece * kernels::kDepth;
      const std::int64_t depth = std::min(kernels::kDepth, static_cast<std::int64_t>(rows_.size()) - first);
      const void* from[kernels::kDepth];
      for (std::int64_t k = 0; k < depth; ++k) {
        from[k] = static_cast<const char*>(
                      exact::row_data(request_.hidden, rows_[static_cast<std::size_t>(first + k)].index)) +
                  p * width * static_cast<std::int64_t>(dtype_size(dtype));
      }
      const std::int64_t at = (piece * panels + p) * kernels::kDepth * width;
      if (!exact_) {
        greatest_[static_cast<std::size_t>(piece * panels + p)] =
            pack_panel(*loops_, part_loops_, from, dtype, depth, held, hidden_.as<float>() + at);
        continue;
      }
      double squares[kernels::kMostColumns];
      loops_->pack_wide(from, dtype, depth, held, hidden_.as<double>() + at, squares);
      for (std::int64_t j = 0; j < held; ++j) reaches_[static_cast<std::size_t>(p * width + j)] += squares[j];
    }
    for (std::int64_t j = 0; exact_ && j < held; ++j) {
      double& reach = reaches_[static_cast<std::size_t>(p * width + j)];
      reach = std::sqrt(reach);
    }
  });
}

void WeightSums::add_chunk(int worker, std::int64_t chunk, const float* dz) {
  const std::int64_t first = chunk * kChunk;
  const std::int64_t ids = std::min(kChunk, vocab_ - first);
  if (bias_.wanted()) add_bias(first, ids, dz);
  if (!weight_.wanted()) return;
  if (loops_ == nullptr) {
    for (std::int64_t j = 0; j < ids; ++j) {
      for (std::int64_t k = 0; k < columns_; ++k) add_by_definition(first + j, k, dz + j);
    }
    return;
  }
  Accumulators& own = workers_[static_cast<std::size_t>(worker)];
  for (std::int64_t piece = 0; piece < depth_pieces(); ++piece) {
    const std::int64_t row = piece * kernels::kDepth;
    PackedRows& left = own.pieces[static_cast<std::size_t>(piece)];
    left.pack(dz + row * kChunk, 1, kChunk, ids,
              std::min(kernels::kDepth, static_cast<std::int64_t>(rows_.size()) - row));
    if (!exact_) left.scale();
  }
  if (exact_) {
    add_exact(own, first, ids, dz);
  } else {
    add_fast(own, first, ids);
  }
}

// As many panels at a time as make a cache line of bf16: rows a power of two apart share few places in the caches, and
// half a line would be gone before its other half is written.
void WeightSums::add_fast(Accumulators& own, std::int64_t first, std::int64_t ids) {
  const std::int64_t width = loops_->columns;
  for (std::int64_t column = 0; column < columns_; column += kernels::kMostColumns) {
    base::go_on_or_throw();
    const std::int64_t held = std::min(kernels::kMostColumns, columns_ - column);
    std::fill(own.high.begin(), own.high.end(), 0.0);
    for (std::int64_t at = 0; at < held; at += width) {
      for (std::int64_t piece = 0; piece < depth_pieces(); ++piece) {
        multiply(*loops_, own.pieces[static_cast<std::size_t>(piece)], panel(piece, (column + at) / width),
                 own.high.data() + at, kernels::kMostColumns);
      }
    }
    for (std::int64_t j = 0; j < ids; ++j) {
      weight_.fetch(first + j + kRowsAhead, column, held);
      weight_.store_row(*loops_, first + j, column, own.high.data() + j * kernels::kMostColumns, held);
    }
  }
}

void WeightSums::add_exact(Accumulators& own, std::int64_t first, std::int64_t ids, const float* dz) {
  const std::int64_t width = loops_->columns;
  const std::int64_t panels = (columns_ + width - 1) / width;
  const auto count = static_cast<std::int64_t>(rows_.size());
  std::fill(own.squares.begin(), own.squares.end(), 0.0);
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t j = 0; j < ids; ++j) {
      const auto x = static_cast<double>(dz[n * kChunk + j]);
      own.squares[static_cast<std::size_t>(j)] += x * x;
    }
  }
  // Cauchy and Schwarz; the factor covers the roundings of the squares and roots.
  const double error = certified_error(std::min(kernels::kDepth, count), depth_pieces()) * (1 + 0x1p-10);
  for (std::int64_t p = 0; p * width < columns_; ++p) {
    base::go_on_or_throw();
    std::fill(own.high.begin(), own.high.end(), 0.0);
    std::fill(own.low.begin(), own.low.end(), 0.0);
    const std::int64_t held = std::min(width, columns_ - p * width);
    for (std::int64_t piece = 0; piece < depth_pieces(); ++piece) {
      const double* right = hidden_.as<double>() + (piece * panels + p) * kernels::kDepth * width;
      multiply_wide(*loops_, own.pieces[static_cast<std::size_t>(piece)], right, held, own.high.data(), own.low.data(),
                    width);
    }
    for (std::int64_t j = 0; j < ids; ++j) {
      weight_.fetch(first + j + kRowsAhead, p * width, held);
      const double reach = error * std::sqrt(own.squares[static_cast<std::size_t>(j)]);
      weight_.store_row_certified(*loops_, first + j, p * width, own.high.data() + j * width,
                                  own.low.data() + j * width, reach, reaches_.data() + p * width, held,
                                  [&](std::int64_t k) {
                                    ++fallbacks_;
                                    add_by_definition(first + j, p * width + k, dz + j);
                                  });
    }
  }
}

void WeightSums::add_by_definition(std::int64_t id, std::int64_t column, const float* dz) {
  base::go_on_or_throw();
  exact::Sum sum;
  for (const ActiveRow& row : rows_) {
    const float h = exact::load_element(exact::row_data(request_.hidden, row.index), request_.hidden.dtype, column);
    sum.add(static_cast<double>(*dz) * static_cast<double>(h));
    dz += kChunk;
  }
  sum.add(weight_.before(id, column));
  weight_.store(id, column, sum.round(exact::format_of(weight_.dtype())));
}

void WeightSums::add_bias(std::int64_t first, std::int64_t ids, const float* dz) {
  const auto count = static_cast<std::int64_t>(rows_.size());
  for (std::int64_t j = 0; j < ids; ++j) {
    const double before = bias_.before(0, first + j);
    if (exact_ || loops_ == nullptr) {
      exact::Sum sum;
      for (std::int64_t n = 0; n < count; ++n) sum.add(static_cast<double>(dz[n * kChunk + j]));
      sum.add(before);
      bias_.store(0, first + j, sum.round(exact::format_of(bias_.dtype())));
    } else {
      double sum = 0;
      for (std::int64_t n = 0; n < count; ++n) sum += static_cast<double>(dz[n * kChunk + j]);
      bias_.store(0, first + j, exact::narrow(sum + before, bias_.dtype()));
    }
  }
}

}  // namespace isologit::detail::backward
