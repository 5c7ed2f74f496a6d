// Streams the tiles of a vocabulary through whatever folds them, a block of hidden rows at a time.
//
// A block is prepared once; then the threads take tiles from a common counter, and each hands its tiles to the
// caller's function with its own number, so folds need no locks. Tiles are fixed by shape, not by thread count.
// Peak memory is that of one block and a tile a thread, whatever N and V are.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "dot/dot.hpp"
#include "isologit/score.hpp"

namespace isologit::head {

// A tile as a fold sees it: after all transforms. Row r of the block begins at logits + r * stride and goes on with
// -inf from `count` to a multiple of fold::kLaneGroup. Folds may write to it, and restore what they wrote.
struct LogitTile {
  float* logits;
  std::int64_t stride;
  std::int64_t first_id;
  std::int64_t count;
};

class Stream {
 public:
  // temperatures: one per hidden row, or one, or none. Throws std::bad_alloc.
  Stream(const Head& head, const MatrixView& hidden, std::span<const float> temperatures, const dot::Kernel& kernel,
         int threads);

  int threads() const { return threads_; }
  const dot::Kernel& kernel() const { return kernel_; }
  // Blocks of `rows` rows in all are best made this long: as few as the kernel can do with, and of like size.
  std::int64_t block_rows(std::int64_t rows) const;
  const fold::Lanes& lanes() const { return kernel_.lanes(); }

  // Runs fold(worker, tile) for every tile of the vocabulary, for the hidden rows `rows` (at most block_rows()).
  // progress(tiles done, tiles in all) is called on the calling thread and may return false to stop; the result is
  // false then.
  bool run(std::span<const std::int64_t> rows, const std::function<void(int, const LogitTile&)>& fold,
           const std::function<bool(double)>& progress);

  // The logit of one id for one hidden row, as the tiles have it: before any transform, and after all of them. May be
  // called from several threads.
  float logit(std::int64_t row, std::int64_t id) const;
  float transformed_logit(std::int64_t row, std::int64_t id) const;

  std::int64_t fallbacks() const;

 private:
  float temperature(std::int64_t row) const;
  void run_tile(int worker, const dot::Kernel::Block& block, std::int64_t tile,
                const std::function<void(int, const LogitTile&)>& fold);

  struct Worker {
    base::AlignedBuffer scratch;
    base::AlignedBuffer logits;
    dot::Counts counts;
  };

  const Head& head_;
  const MatrixView& hidden_;
  std::span<const float> temperatures_;
  const dot::Kernel& kernel_;
  int threads_;
  base::AlignedBuffer prepared_;
  std::vector<Worker> workers_;
};

}  // namespace isologit::head
