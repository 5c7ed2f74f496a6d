#include "tiles/tiles.hpp"

#include <algorithm>
#include <limits>

#include "base/asking.hpp"
#include "base/thread_pool.hpp"
#include "tiles/transforms.hpp"

namespace isologit::detail::tiles {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

void reserve(base::AlignedBuffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer = base::AlignedBuffer(bytes);
}

}  // namespace

Tiles::Tiles(const Shard& shard, const MatrixView& hidden, std::span<const float> temperatures,
             const kernels::Target& target, int threads, Stages stages)
    : shard_(shard),
      hidden_(hidden),
      temperatures_(temperatures),
      target_(target),
      stages_(stages),
      workers_(static_cast<std::size_t>(threads)) {}

void Tiles::take(std::span<const std::int64_t> rows) {
  rows_.assign(rows.begin(), rows.end());
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t most = target_.block_rows();
  encoded_.take(hidden_, rows_, threads());
  const MatrixView& hidden = encoded_.hidden();
  const std::int64_t* ids = encoded_.row_ids(0);
  blocks_.resize(static_cast<std::size_t>((count + most - 1) / most));
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const std::int64_t begin = static_cast<std::int64_t>(b) * most;
    blocks_[b].begin = static_cast<std::size_t>(begin);
    blocks_[b].rows = std::min(most, count - begin);
    blocks_[b].target = &kernels::for_rows(target_, blocks_[b].rows);
    reserve(blocks_[b].prepared, blocks_[b].target->prepared_bytes(blocks_[b].rows, hidden.cols));
    blocks_[b].low_rank.resize(blocks_[b].rows, shard_.head.lora.a.rows);
  }
  base::parallel_for(threads(), count, [&](int, std::int64_t i) {
    PreparedRows& block = blocks_[static_cast<std::size_t>(i / most)];
    const std::int64_t row = ids[i];
    block.target->prepare(hidden, row, i % most, block.rows, block.prepared.as<std::byte>());
    block.low_rank.prepare(shard_.head.lora, hidden, row, i % most);
  });
  std::size_t scratch = 0;
  for (const PreparedRows& block : blocks_) {
    scratch = std::max(scratch, block.target->scratch_bytes(block.rows, hidden.cols));
  }
  const std::int64_t widest = std::min(most, count);
  const auto bytes = static_cast<std::size_t>(widest * target_.tile_vocab()) * sizeof(float);
  for (Workplace& worker : workers_) {
    reserve(worker.scratch, scratch);
    if (encoded_.needed()) encoded_.reserve(worker.decoded, target_.tile_vocab());
    reserve(worker.logits, bytes);
    if (stages_.raw && !temperatures_.empty()) reserve(worker.raw, bytes);
    if (stages_.uncapped) reserve(worker.uncapped, bytes);
  }
}

void Tiles::visit(int worker, std::int64_t begin, std::int64_t end,
                  const std::function<void(const RowTile&)>& visit_row) {
  Workplace& own = workers_[static_cast<std::size_t>(worker)];
  const std::int64_t stride = target_.tile_vocab();
  for (std::int64_t first = begin; first < end; first += stride) {
    const std::int64_t count = std::min(stride, end - first);
    if (encoded_.needed()) encoded_.decode(first, count, own.decoded);
    for (const PreparedRows& block : blocks_) {
      base::go_on_or_throw();
      make(own, block, first, count);
      for (std::int64_t r = 0; r < block.rows; ++r) {
        const std::size_t row = block.begin + static_cast<std::size_t>(r);
        float* logits = own.logits.as<float>() + r * stride;
        // A stage that no step follows is the last one.
        float* raw = temperature_of(temperatures_, rows_[row]) == 1 || own.raw.size() == 0
                         ? logits
                         : own.raw.as<float>() + r * stride;
        float* uncapped = stages_.uncapped ? own.uncapped.as<float>() + r * stride : logits;
        const RowTile tile{row, logits, raw, uncapped, shard_.first_id + first, count};
        transform(rows_[row], tile);
        visit_row(tile);
      }
    }
  }
}

void Tiles::make(Workplace& own, const PreparedRows& block, std::int64_t begin, std::int64_t count) {
  const kernels::Block rows{&encoded_.hidden(), encoded_.row_ids(block.begin), block.rows,
                            block.prepared.as<std::byte>(), block.low_rank.data()};
  auto* logits = own.logits.as<float>();
  auto* scratch = own.scratch.as<std::byte>();
  if (encoded_.needed()) {
    encoded_.logits(*block.target, rows, begin, count, own.decoded, logits, scratch, own.counts);
  } else {
    block.target->logits(rows, {&shard_.head.weight, &shard_.head.bias, begin, count, &shard_.head.lora.b}, logits,
                         scratch, own.counts);
  }
}

void Tiles::transform(std::int64_t row, const RowTile& tile) const {
  const std::int64_t length = kernels::padded(tile.count);
  std::fill(tile.logits + tile.count, tile.logits + length, 0.0F);
  apply(shard_.head.transforms, loops(), tile.logits, length, tile.uncapped == tile.logits ? nullptr : tile.uncapped);
  if (tile.raw != tile.logits) {
    std::copy(tile.logits, tile.logits + tile.count, tile.raw);
    std::fill(tile.raw + tile.count, tile.raw + length, kMinusInf);
  }
  apply_temperature(temperature_of(temperatures_, row), tile.logits, length);
  std::fill(tile.logits + tile.count, tile.logits + length, kMinusInf);
}

bool Tiles::run(const std::function<void(int, const RowTile&)>& visit_row,
                const std::function<bool(double)>& progress) {
  const std::int64_t vocab = shard_.head.vocab_size;
  const std::int64_t tiles = (vocab + target_.tile_vocab() - 1) / target_.tile_vocab();
  // A thread goes through neighbouring tiles where there are many, so that kernels may fetch the next one's weight.
  const std::int64_t stride = std::clamp<std::int64_t>(tiles / (64 * threads()), 1, 4) * target_.tile_vocab();
  return base::parallel_for(
      threads(), (vocab + stride - 1) / stride,
      [&](int worker, std::int64_t i) {
        visit(worker, i * stride, std::min((i + 1) * stride, vocab),
              [&](const RowTile& tile) { visit_row(worker, tile); });
      },
      progress);
}

std::int64_t Tiles::block_rows(std::int64_t rows) const {
  const std::int64_t blocks = (rows + target_.block_rows() - 1) / target_.block_rows();
  return blocks <= 1 ? target_.block_rows() : (rows + blocks - 1) / blocks;
}

Tiles::StagedLogit Tiles::logit(std::int64_t row, std::int64_t id) const {
  Tiles one(shard_, hidden_, temperatures_, target_, 1, {true, true});
  one.take({&row, 1});
  StagedLogit logit{};
  one.visit(0, id, id + 1, [&](const RowTile& tile) { logit = {*tile.uncapped, *tile.raw, *tile.logits}; });
  return logit;
}

std::int64_t Tiles::fallbacks() const {
  std::int64_t total = 0;
  for (const Workplace& worker : workers_) total += worker.counts.fallbacks;
  return total;
}

Masked::Masked(const SupportReader& support, std::int64_t row, const RowTile& tile, float* dropped) {
  if (support.is_everything()) return;
  support.fill(row, tile.first_id, tile.count, marks);
  in_support = marks;
  if (dropped != nullptr) std::fill(dropped, dropped + kernels::padded(tile.count), kMinusInf);
  for (std::int64_t j = 0; j < tile.count; ++j) {
    if (marks[j] != 0) continue;
    if (dropped != nullptr) dropped[j] = tile.logits[j];
    tile.logits[j] = kMinusInf;
  }
}

}  // namespace isologit::detail::tiles
