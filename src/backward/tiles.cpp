#include "backward/tiles.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

#include "base/thread_pool.hpp"
#include "head/transforms.hpp"

namespace isologit::gradient {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

}  // namespace

bool for_each(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
              const std::function<bool(double)>& progress) {
  std::atomic<std::int64_t> next = 0;
  std::atomic<bool> stop = false;
  base::parallel(threads, [&](int worker) {
    for (std::int64_t i = next++; i < count && !stop; i = next++) {
      work(worker, i);
      if (worker == 0 && progress && !progress(static_cast<double>(i + 1) / static_cast<double>(count))) stop = true;
    }
  });
  return !stop;
}

Tiles::Tiles(const Head& head, const MatrixView& hidden, const head::SupportReader& support, std::span<const Row> rows,
             const dot::Kernel& kernel, int threads)
    : head_(head), hidden_(hidden), support_(support), rows_(rows), kernel_(kernel) {
  for (const Row& row : rows) indices_.push_back(row.index);
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t block = kernel.block_rows();
  for (std::int64_t begin = 0; begin < count; begin += block) {
    blocks_.emplace_back(kernel.prepared_bytes(std::min(block, count - begin), hidden.cols));
  }
  for_each(threads, count, [&](int, std::int64_t i) {
    const std::int64_t begin = i / block * block;
    kernel.prepare(hidden, indices_[static_cast<std::size_t>(i)], i - begin, std::min(block, count - begin),
                   blocks_[static_cast<std::size_t>(i / block)].as<std::byte>());
  });
  const std::int64_t widest = std::min(block, std::max<std::int64_t>(count, 1));
  const auto bytes = static_cast<std::size_t>(widest * kernel.tile_vocab()) * sizeof(float);
  workers_.resize(static_cast<std::size_t>(threads));
  for (Worker& worker : workers_) {
    worker.scratch = base::AlignedBuffer(kernel.scratch_bytes(widest, hidden.cols));
    worker.last = base::AlignedBuffer(bytes);
    if (head.transforms.has_softcap) worker.first_logits = base::AlignedBuffer(bytes);
    if (!support.is_everything()) worker.in_support.resize(static_cast<std::size_t>(kernel.tile_vocab()));
  }
}

void Tiles::visit(int worker, std::int64_t chunk, const std::function<void(const TileRow&)>& visit_row) {
  Worker& own = workers_[static_cast<std::size_t>(worker)];
  const std::int64_t stride = kernel_.tile_vocab();
  const std::int64_t end = std::min((chunk + 1) * kChunk, head_.vocab_size);
  auto* last = own.last.as<float>();
  float* first_logits = head_.transforms.has_softcap ? own.first_logits.as<float>() : last;
  std::uint8_t* in_support = support_.is_everything() ? nullptr : own.in_support.data();
  for (std::int64_t first = chunk * kChunk; first < end; first += stride) {
    const std::int64_t count = std::min(stride, end - first);
    const std::int64_t padded = (count + fold::kLaneGroup - 1) / fold::kLaneGroup * fold::kLaneGroup;
    for (std::size_t b = 0, row = 0; b < blocks_.size(); ++b) {
      const auto rows = std::min<std::int64_t>(kernel_.block_rows(), static_cast<std::int64_t>(indices_.size() - row));
      const dot::Kernel::Block block{&hidden_, indices_.data() + row, rows, blocks_[b].as<std::byte>()};
      kernel_.logits(block, {&head_.weight, &head_.bias, first, count}, last, own.scratch.as<std::byte>(), own.counts);
      for (std::int64_t r = 0; r < rows; ++r, ++row) {
        float* z = last + r * stride;
        std::fill(z + count, z + padded, 0.0F);
        if (first_logits != last) std::copy(z, z + padded, first_logits + r * stride);
        head::apply(head_.transforms, rows_[row].temperature, kernel_.lanes(), z, padded);
        std::fill(z + count, z + padded, kNothing);
        if (in_support != nullptr) {
          support_.fill(rows_[row].index, first, count, in_support);
          for (std::int64_t j = 0; j < count; ++j) z[j] = in_support[j] != 0 ? z[j] : kNothing;
        }
        visit_row({row, first_logits + r * stride, z, first, count, in_support});
      }
    }
  }
}

std::int64_t Tiles::fallbacks() const {
  std::int64_t total = 0;
  for (const Worker& worker : workers_) total += worker.counts.fallbacks;
  return total;
}

}  // namespace isologit::gradient
