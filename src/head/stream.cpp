#include "head/stream.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "base/thread_pool.hpp"
#include "head/transforms.hpp"

namespace isologit::head {

Stream::Stream(const Head& head, const MatrixView& hidden, std::span<const float> temperatures,
               const dot::Kernel& kernel, int threads)
    : head_(head), hidden_(hidden), temperatures_(temperatures), kernel_(kernel), threads_(threads) {
  const std::int64_t rows = std::min(kernel.block_rows(), std::max<std::int64_t>(hidden.rows, 1));
  prepared_ = base::AlignedBuffer(kernel.prepared_bytes(rows, hidden.cols));
  workers_.resize(static_cast<std::size_t>(threads));
  for (Worker& worker : workers_) {
    worker.scratch = base::AlignedBuffer(kernel.scratch_bytes(rows, hidden.cols));
    worker.logits = base::AlignedBuffer(static_cast<std::size_t>(rows * kernel.tile_vocab()) * sizeof(float));
  }
}

float Stream::temperature(std::int64_t row) const {
  if (temperatures_.empty()) return 1.0F;
  return temperatures_.size() == 1 ? temperatures_[0] : temperatures_[static_cast<std::size_t>(row)];
}

bool Stream::run(std::span<const std::int64_t> rows, const std::function<void(int, const LogitTile&)>& fold,
                 const std::function<bool(double)>& progress) {
  const auto count = static_cast<std::int64_t>(rows.size());
  std::atomic<std::int64_t> next_row = 0;
  base::parallel(threads_, [&](int) {
    for (std::int64_t i = next_row++; i < count; i = next_row++) {
      kernel_.prepare(hidden_, rows[static_cast<std::size_t>(i)], i, count, prepared_.as<std::byte>());
    }
  });
  const dot::Kernel::Block block{&hidden_, rows.data(), count, prepared_.as<std::byte>()};
  const std::int64_t tiles = (head_.vocab_size + kernel_.tile_vocab() - 1) / kernel_.tile_vocab();
  std::atomic<std::int64_t> next_tile = 0;
  std::atomic<bool> stop = false;
  base::parallel(threads_, [&](int worker) {
    for (std::int64_t tile = next_tile++; tile < tiles && !stop; tile = next_tile++) {
      run_tile(worker, block, tile, fold);
      const double done = static_cast<double>(tile + 1) / static_cast<double>(tiles);
      if (worker == 0 && progress && !progress(done)) stop = true;
    }
  });
  return !stop;
}

void Stream::run_tile(int worker, const dot::Kernel::Block& block, std::int64_t tile,
                      const std::function<void(int, const LogitTile&)>& fold) {
  Worker& own = workers_[static_cast<std::size_t>(worker)];
  const std::int64_t stride = kernel_.tile_vocab();
  const std::int64_t first = tile * stride;
  const std::int64_t count = std::min(stride, head_.vocab_size - first);
  const std::int64_t padded = (count + fold::kLaneGroup - 1) / fold::kLaneGroup * fold::kLaneGroup;
  auto* logits = own.logits.as<float>();
  kernel_.logits(block, {&head_.weight, &head_.bias, first, count}, logits, own.scratch.as<std::byte>(), own.counts);
  for (std::int64_t r = 0; r < block.rows; ++r) {
    float* row = logits + r * stride;
    std::fill(row + count, row + padded, 0.0F);
    apply(head_.transforms, temperature(block.row_ids[r]), lanes(), row, padded);
    std::fill(row + count, row + padded, -std::numeric_limits<float>::infinity());
  }
  fold(worker, {logits, stride, first, count});
}

std::int64_t Stream::block_rows(std::int64_t rows) const {
  const std::int64_t blocks = (rows + kernel_.block_rows() - 1) / kernel_.block_rows();
  return blocks <= 1 ? kernel_.block_rows() : (rows + blocks - 1) / blocks;
}

float Stream::logit(std::int64_t row, std::int64_t id) const {
  base::AlignedBuffer prepared(kernel_.prepared_bytes(1, hidden_.cols));
  base::AlignedBuffer scratch(kernel_.scratch_bytes(1, hidden_.cols));
  base::AlignedBuffer logits(static_cast<std::size_t>(kernel_.tile_vocab()) * sizeof(float));
  kernel_.prepare(hidden_, row, 0, 1, prepared.as<std::byte>());
  dot::Counts counts;  // the tiles count
  kernel_.logits({&hidden_, &row, 1, prepared.as<std::byte>()}, {&head_.weight, &head_.bias, id, 1}, logits.as<float>(),
                 scratch.as<std::byte>(), counts);
  return logits.as<float>()[0];
}

float Stream::transformed_logit(std::int64_t row, std::int64_t id) const {
  std::array<float, fold::kLaneGroup> logits{};
  logits[0] = logit(row, id);
  apply(head_.transforms, temperature(row), lanes(), logits.data(), fold::kLaneGroup);
  return logits[0];
}

std::int64_t Stream::fallbacks() const {
  std::int64_t total = 0;
  for (const Worker& worker : workers_) total += worker.counts.fallbacks;
  return total;
}

}  // namespace isologit::head
