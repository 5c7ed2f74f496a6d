// The interface of what is compiled per instruction set, and the list of it.
//
// A target makes tiles of logits: it sees a block of hidden rows once (`prepare`, into memory the caller owns) and then
// any number of tiles of the vocabulary. What one of exact arithmetic writes are the logits of CONTRACT.md 1, bit for
// bit those of the reference: it has no freedom that could be seen in its results. One of fast arithmetic adds up in
// f32 in an order of its own, the same for every row of every block and tile. Beside them it holds the loops of the
// folds, of backward and of the forward pass for the same processors; what those return is exact or comes with a proven
// bound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "isologit/arithmetic.hpp"
#include "isologit/head.hpp"
#include "isologit/kernels.hpp"
#include "isologit/status.hpp"
#include "kernels/backward_loops.hpp"
#include "kernels/bf16_pass.hpp"
#include "kernels/fold_loops.hpp"
#include "kernels/forward_loops.hpp"
#include "kernels/low_rank.hpp"
#include "kernels/part_loops.hpp"

namespace isologit::detail::kernels {

// How often the fast path could not prove its rounding and exact accumulation settled the logit.
struct Counts {
  std::int64_t fallbacks = 0;
};

// Rows [first, first + count) of the weight, with their bias, and b of a low-rank addition, of no columns where there
// is none.
struct WeightTile {
  const MatrixView* weight;
  const VectorView* bias;
  std::int64_t first;
  std::int64_t count;
  const MatrixView* b = nullptr;
};

// A prepared block: block row r is hidden row row_ids[r]. `hidden` is there for logits that need exact accumulation.
struct Block {
  const MatrixView* hidden;
  const std::int64_t* row_ids;
  std::int64_t rows;
  const void* prepared;
  const LowRankRow* low_rank = nullptr;  // one for each block row, null where the weight has no low-rank addition
};

// The most hidden rows a block should hold, and the most weight rows a tile may hold: a multiple of kLaneGroup, at most
// kMostTile.
struct TileShape {
  std::int64_t block_rows;
  std::int64_t tile_vocab;

  bool operator==(const TileShape&) const = default;
};

class Target;

// A line of the registry, told without running any code that was compiled for the target's instruction set.
struct Entry {
  std::string_view name;
  std::string_view instruction_set;
  Arithmetic arithmetic;
  TileShape shape;
  // Blocks of fewer hidden rows are faster by the next exact target of the list. 1 for fast ones.
  std::int64_t from_rows;
  std::string (*why_not)();  // empty when the target runs on this machine, else what is missing
  const Target& (*make)(const Entry& entry);

  const Target& target() const { return make(*this); }  // where why_not() is empty
};

// What a target holds beside its tiles.
struct Loops {
  const FoldLoops& fold;
  const BackwardLoops* backward;     // null: the reference has none, it settles everything by definition
  const ForwardLoops* forward;       // likewise
  const PartLoops* parts = nullptr;  // null: no instruction multiplies bf16; panels are as wide as those of `backward`
  const Bf16Pass* bf16 = nullptr;    // likewise
};

class Target {
 public:
  Target(const Entry& entry, const Loops& loops) : entry_(entry), loops_(loops) {}
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  virtual ~Target();

  const Entry& entry() const { return entry_; }
  std::string_view name() const { return entry_.name; }
  Arithmetic arithmetic() const { return entry_.arithmetic; }
  std::int64_t block_rows() const { return entry_.shape.block_rows; }
  std::int64_t tile_vocab() const { return entry_.shape.tile_vocab; }

  // Bytes of a prepared block and of one thread's scratch, for hidden rows of `size` elements.
  virtual std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) const = 0;
  virtual std::size_t scratch_bytes(std::int64_t rows, std::int64_t size) const = 0;

  // Prepares row `index` (of the block) from row `row` of hidden. Different rows may be prepared concurrently.
  virtual void prepare(const MatrixView& hidden, std::int64_t row, std::int64_t index, std::int64_t rows,
                       void* prepared) const = 0;

  // logits[r * tile_vocab() + j] for r in [0, rows), j in [0, tile.count), before any transform.
  virtual void logits(const Block& block, const WeightTile& tile, float* logits, void* scratch,
                      Counts& counts) const = 0;

  // Does `steps` rounds of the target's multiply-adds on registers alone, the ceiling that a bench measures against,
  // and returns how many elements were multiplied and added; 0 when it has none to speak of.
  virtual std::int64_t multiply_adds(std::int64_t steps) const = 0;

  const FoldLoops& fold_loops() const { return loops_.fold; }
  const BackwardLoops* backward_loops() const { return loops_.backward; }
  const ForwardLoops* forward_loops() const { return loops_.forward; }
  const PartLoops* part_loops() const { return loops_.parts; }
  const Bf16Pass* bf16_pass() const { return loops_.bf16; }

 private:
  const Entry& entry_;
  Loops loops_;
};

// Of each arithmetic the best first; the reference is last.
std::span<const Entry> registry();

// The target of that name and arithmetic; an empty name takes ISOLOGIT_KERNEL, and without it the best that runs here.
Result<const Target*> choose(std::string_view name, Arithmetic arithmetic);

// What `choose` takes where no name is given: the first of the arithmetic that runs.
const Entry* best(std::span<const Entry> entries, Arithmetic arithmetic);

// The line whose target makes a block of so many rows where `chosen` was chosen: that one, or below its crossover the
// next one of the same arithmetic that runs and is not below its own. The target chosen keeps its name and its loops,
// so that nothing but time depends on the number of rows.
const Entry& for_rows(std::span<const Entry> entries, const Entry& chosen, std::int64_t rows);
const Target& for_rows(const Target& chosen, std::int64_t rows);

// Settles one logit exactly.
float exact_logit(const Block& block, std::int64_t row, const WeightTile& tile, std::int64_t column);

// The same from finite terms that add up to it: multiples of 2^-298 below 2^257.
float exact_sum(const double* terms, std::int64_t count);

}  // namespace isologit::detail::kernels
