// Tiles of logits: how they are made and transformed, for every verb.
//
// Some hidden rows are taken and prepared; then the vocabulary passes in tiles, each handed out row by row to a
// function of the caller, with the number of the thread that made it, so folds need no locks. All rows taken meet a
// tile while its part of the weight is in the caches. Tiles are fixed by shape, not by thread count. Beside the
// prepared rows there is memory for a tile a thread, whatever N and V are.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "isologit/partial.hpp"
#include "kernels/target.hpp"
#include "tiles/encoded_tiles.hpp"
#include "tiles/low_rank_rows.hpp"
#include "tiles/support.hpp"

namespace isologit::detail::tiles {

// One row's logits of ids [first_id, first_id + count) of the whole vocabulary, after all transforms. They go on with
// -inf to a multiple of kernels::kLaneGroup. Whoever is handed one may write to it.
struct RowTile {
  std::size_t row;  // in the list of rows taken
  float* logits;
  float* raw;       // before the temperature, padded likewise: if asked for
  float* uncapped;  // what the softcap is given: if asked for, else not meaningful
  std::int64_t first_id;
  std::int64_t count;
};

// What a tile keeps beside the last logits.
struct Stages {
  bool raw = false;
  bool uncapped = false;
};

class Tiles {
 public:
  // temperatures: one per hidden row, or one, or none. All but the shard must outlive the object. Throws
  // std::bad_alloc.
  Tiles(const Shard& shard, const MatrixView& hidden, std::span<const float> temperatures,
        const kernels::Target& target, int threads, Stages stages = {});

  // Prepares these hidden rows, in the place of those before. Throws std::bad_alloc.
  void take(std::span<const std::int64_t> rows);

  // Visits the rows taken in the tiles of the shard's ids [begin, end).
  void visit(int worker, std::int64_t begin, std::int64_t end, const std::function<void(const RowTile&)>& visit_row);

  // The same for the whole shard on all threads: visit_row(worker, tile). progress(share done) is called on the calling
  // thread and may return false to stop; the result is false then.
  bool run(const std::function<void(int, const RowTile&)>& visit_row, const std::function<bool(double)>& progress);

  int threads() const { return static_cast<int>(workers_.size()); }
  const kernels::Target& target() const { return target_; }
  const kernels::FoldLoops& loops() const { return target_.fold_loops(); }
  // Blocks of `rows` rows in all are best made this long: as few as the target can do with, and of like size.
  std::int64_t block_rows(std::int64_t rows) const;

  // The logit of one of the shard's ids for one hidden row, as the tiles have it. May be called from several threads.
  struct StagedLogit {
    float uncapped;
    float raw;
    float last;
  };
  StagedLogit logit(std::int64_t row, std::int64_t id) const;

  std::int64_t fallbacks() const;

 private:
  struct PreparedRows {
    std::size_t begin;  // in rows_
    std::int64_t rows;
    const kernels::Target* target;  // the one that is best for so many rows
    base::AlignedBuffer prepared;
    LowRankRows low_rank;
  };
  // What one thread makes its tiles in.
  struct Workplace {
    base::AlignedBuffer scratch;
    base::AlignedBuffer logits;
    base::AlignedBuffer raw;
    base::AlignedBuffer uncapped;
    EncodedTiles::Tile decoded;
    kernels::Counts counts;
  };

  void make(Workplace& own, const PreparedRows& block, std::int64_t begin, std::int64_t count);
  // Applies the transforms to a row of `padded` logits, of which `count` are meant.
  void transform(std::int64_t row, const RowTile& tile) const;

  Shard shard_;
  EncodedTiles encoded_{shard_.head};
  const MatrixView& hidden_;
  std::span<const float> temperatures_;
  const kernels::Target& target_;
  Stages stages_;
  std::vector<std::int64_t> rows_;
  std::vector<PreparedRows> blocks_;
  std::vector<Workplace> workers_;
};

// A tile's share of a row's support.
struct Masked {
  // Sets the tile's logits outside the row's support to -inf. With `dropped`, these are moved there, among -inf for all
  // others.
  Masked(const SupportReader& support, std::int64_t row, const RowTile& tile, float* dropped = nullptr);

  const std::uint8_t* in_support = nullptr;  // 1 or 0 for each id; null: all are
  std::uint8_t marks[kernels::kMostTile];
};

}  // namespace isologit::detail::tiles
