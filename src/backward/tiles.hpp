// Tiles of logits for any number of hidden rows at once, so that one reading of a weight tile serves them all. The
// vocabulary is cut into chunks of kChunk ids, fixed by shape alone, and a chunk into the kernel's tiles.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backward/upstream.hpp"
#include "base/aligned.hpp"
#include "dot/dot.hpp"

namespace isologit::gradient {

inline constexpr std::int64_t kChunk = 2 * kDepth;

inline std::int64_t chunks_of(std::int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

// Row r of a tile, the logits of ids [first, first + count); both go on to a multiple of the lane group, `last` with
// -inf, which `last` is outside the row's support too. `first_logits` are those before the transforms.
struct TileRow {
  std::size_t row;  // in the list of rows the tiles are of
  float* first_logits;
  float* last;
  std::int64_t first;
  std::int64_t count;
  const std::uint8_t* in_support;  // 1 or 0 for each id; null: all are
};

class Tiles {
 public:
  // Throws std::bad_alloc.
  Tiles(const Head& head, const MatrixView& hidden, const head::SupportReader& support, std::span<const Row> rows,
        const dot::Kernel& kernel, int threads);

  // Visits all rows in the tiles of one chunk.
  void visit(int worker, std::int64_t chunk, const std::function<void(const TileRow&)>& visit_row);

  std::int64_t fallbacks() const;

 private:
  struct Worker {
    base::AlignedBuffer scratch;
    base::AlignedBuffer first_logits;
    base::AlignedBuffer last;
    std::vector<std::uint8_t> in_support;
    dot::Counts counts;
  };

  const Head& head_;
  const MatrixView& hidden_;
  const head::SupportReader& support_;
  std::span<const Row> rows_;
  const dot::Kernel& kernel_;
  std::vector<std::int64_t> indices_;
  std::vector<base::AlignedBuffer> blocks_;  // prepared
  std::vector<Worker> workers_;
};

// work(worker, i) for i in [0, count) on all threads, until a call of progress(share done) returns false; false then.
bool for_each(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
              const std::function<bool(double)>& progress = {});

}  // namespace isologit::gradient
