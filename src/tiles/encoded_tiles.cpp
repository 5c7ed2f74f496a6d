#include "tiles/encoded_tiles.hpp"

#include <cmath>
#include <cstring>
#include <numeric>

#include "base/thread_pool.hpp"
#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "exact/encoded.hpp"

namespace isologit::detail::tiles {
namespace {

bool is_bf16(const EncodedWeight& weight) {
  return weight.encoding != Encoding::f64 && weight.product == F8Product::bf16;
}

}  // namespace

std::int64_t kernel_columns(const Head& head) { return head.weight.cols * exact::parts_of(head.encoded); }

DType kernel_dtype(const Head& head) {
  if (head.encoded.encoding == Encoding::none) return head.weight.dtype;
  return is_bf16(head.encoded) ? DType::bf16 : DType::f32;
}

EncodedTiles::EncodedTiles(const Head& head)
    : head_(head), parts_(exact::parts_of(head.encoded)), dtype_(kernel_dtype(head)) {}

void EncodedTiles::take(const MatrixView& hidden, std::span<const std::int64_t> rows, int threads) {
  given_ = &hidden;
  given_rows_.assign(rows.begin(), rows.end());
  special_.assign(rows.size(), 0);
  if (parts_ == 1) {
    repeated_ = hidden;
    ids_ = given_rows_;
    return;
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  const auto bytes = static_cast<std::size_t>(hidden.cols) * dtype_size(hidden.dtype);
  const std::size_t needed = rows.size() * static_cast<std::size_t>(parts_) * bytes;
  if (elements_.size() < needed) elements_ = base::AlignedBuffer(needed);
  base::parallel_for(threads, count, [&](int, std::int64_t i) {
    const void* from = exact::row_data(hidden, given_rows_[static_cast<std::size_t>(i)]);
    std::byte* to = elements_.as<std::byte>() + static_cast<std::size_t>(i * parts_) * bytes;
    for (std::int64_t p = 0; p < parts_; ++p, to += bytes) std::memcpy(to, from, bytes);
    for (std::int64_t k = 0; k < hidden.cols; ++k) {
      if (!std::isfinite(exact::load_element(from, hidden.dtype, k))) special_[static_cast<std::size_t>(i)] = 1;
    }
  });
  repeated_ = {elements_.as<std::byte>(), hidden.dtype, count, cols(), cols()};
  ids_.resize(rows.size());
  std::iota(ids_.begin(), ids_.end(), 0);
}

void EncodedTiles::reserve(Tile& tile, std::int64_t tile_vocab) const {
  const std::size_t bytes = static_cast<std::size_t>(tile_vocab * cols()) * dtype_size(dtype_);
  if (tile.elements.size() < bytes) tile.elements = base::AlignedBuffer(bytes);
  tile.row.resize(static_cast<std::size_t>(head_.weight.cols));
  tile.special.resize(static_cast<std::size_t>(tile_vocab));
}

bool EncodedTiles::store_row(const double* numbers, std::byte* to) const {
  const std::int64_t size = head_.weight.cols;
  if (dtype_ == DType::bf16) {
    for (std::int64_t k = 0; k < size; ++k) exact::store_element(to + 2 * k, dtype_, numbers[k]);
    return true;
  }
  auto* row = reinterpret_cast<float*>(to);
  for (std::int64_t k = 0; k < size; ++k) {
    if (!exact::split(numbers[k], parts_, row + k, size)) {
      std::memset(to, 0, static_cast<std::size_t>(cols()) * sizeof(float));
      return false;
    }
  }
  return true;
}

void EncodedTiles::decode(std::int64_t first, std::int64_t count, Tile& tile) const {
  const std::size_t bytes = static_cast<std::size_t>(cols()) * dtype_size(dtype_);
  for (std::int64_t j = 0; j < count; ++j) {
    exact::decode_row(head_, first + j, tile.row.data());
    const bool fits = store_row(tile.row.data(), tile.elements.as<std::byte>() + static_cast<std::size_t>(j) * bytes);
    tile.special[static_cast<std::size_t>(j)] = fits ? 0 : 1;
  }
}

void EncodedTiles::logits(const kernels::Target& target, const kernels::Block& block, std::int64_t first,
                          std::int64_t count, Tile& tile, float* logits, void* scratch, kernels::Counts& counts) const {
  const MatrixView weight{tile.elements.as<std::byte>(), dtype_, count, cols(), cols()};
  const VectorView& all = head_.bias;
  VectorView bias;
  if (all.data != nullptr) {
    const auto size = static_cast<std::int64_t>(dtype_size(all.dtype));
    bias = {static_cast<const char*>(all.data) + first * size, all.dtype, count};
  }
  MatrixView b = head_.lora.b;
  if (block.low_rank != nullptr) b.data = exact::row_data(b, first);
  b.rows = count;
  target.logits(block, {&weight, &bias, 0, count, &b}, logits, scratch, counts);
  for (std::int64_t j = 0; j < count; ++j) {
    bool decoded = false;
    for (std::int64_t r = 0; r < block.rows; ++r) {
      const auto row = static_cast<std::size_t>(parts_ == 1 ? 0 : block.row_ids[r]);
      const bool hidden_is_special = parts_ > 1 && special_[row] != 0;
      if (tile.special[static_cast<std::size_t>(j)] == 0 && !hidden_is_special) continue;
      if (!decoded) exact::decode_row(head_, first + j, tile.row.data());
      decoded = true;
      const std::int64_t hidden_row = parts_ == 1 ? block.row_ids[r] : given_rows_[row];
      exact::LowRankTerms low_rank;
      if (block.low_rank != nullptr) low_rank = {*block.low_rank[r].factors, exact::row_data(b, j), b.dtype};
      const float bias_of_id = bias.data == nullptr ? 0.0F : exact::load_element(bias.data, bias.dtype, j);
      const double logit = exact::wide_logit(exact::row_data(*given_, hidden_row), given_->dtype, tile.row.data(),
                                             head_.weight.cols, bias_of_id, low_rank, exact::kF32);
      logits[r * target.tile_vocab() + j] = static_cast<float>(logit);
      ++counts.fallbacks;
    }
  }
}

}  // namespace isologit::detail::tiles
