// The interface of the kernels that make tiles of logits, and the list of them.
//
// A kernel sees a block of hidden rows once (`prepare`, into memory the caller owns) and then any number of tiles of
// the vocabulary. What a kernel of exact arithmetic writes are the logits of CONTRACT.md 1, bit for bit those of the
// reference: it has no freedom that could be seen in its results. One of fast arithmetic adds up in f32 in an order of
// its own, the same for every row of every block and tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "fold/lanes.hpp"
#include "isologit/arithmetic.hpp"
#include "isologit/head.hpp"
#include "isologit/kernels.hpp"
#include "isologit/status.hpp"

namespace isologit::dot {

// How often the fast path could not prove its rounding and exact accumulation settled the logit.
struct Counts {
  std::int64_t fallbacks = 0;
};

// Rows [first, first + count) of the weight, with their bias.
struct WeightTile {
  const MatrixView* weight;
  const VectorView* bias;
  std::int64_t first;
  std::int64_t count;
};

class Kernel;

// A kernel on the list, told without running a line of code that was compiled for its instruction set.
struct Entry {
  std::string_view name;
  std::string_view instruction_set;
  Arithmetic arithmetic;
  std::string (*why_not)();  // empty when the kernel runs on this machine, else what is missing
  const Kernel& (*make)(const Entry& entry);

  const Kernel& kernel() const { return make(*this); }  // where why_not() is empty
};

class Kernel {
 public:
  explicit Kernel(const Entry& entry) : entry_(entry) {}
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual ~Kernel() = default;

  std::string_view name() const { return entry_.name; }
  Arithmetic arithmetic() const { return entry_.arithmetic; }

  // The most hidden rows a block should hold, and the most weight rows a tile may hold.
  virtual std::int64_t block_rows() const = 0;
  virtual std::int64_t tile_vocab() const = 0;

  // Bytes of a prepared block and of one thread's scratch, for hidden rows of `size` elements.
  virtual std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) const = 0;
  virtual std::size_t scratch_bytes(std::int64_t rows, std::int64_t size) const = 0;

  // Prepares row `index` (of the block) from row `row` of hidden. Different rows may be prepared concurrently.
  virtual void prepare(const MatrixView& hidden, std::int64_t row, std::int64_t index, std::int64_t rows,
                       void* prepared) const = 0;

  // logits[r * tile_vocab() + j] for r in [0, rows), j in [0, tile.count), before any transform. `hidden` and
  // `row_ids` (block row r is hidden row row_ids[r]) are there for the logits that need exact accumulation.
  struct Block {
    const MatrixView* hidden;
    const std::int64_t* row_ids;
    std::int64_t rows;
    const void* prepared;
  };
  virtual void logits(const Block& block, const WeightTile& tile, float* logits, void* scratch,
                      Counts& counts) const = 0;

  // Does `steps` rounds of the kernel's multiply-adds on registers alone, the ceiling that a bench measures against,
  // and returns how many elements were multiplied and added; 0 when the kernel has none to speak of.
  virtual std::int64_t multiply_adds(std::int64_t steps) const = 0;

  // The folds' loops for the same instruction set.
  virtual const fold::Lanes& lanes() const = 0;

 private:
  const Entry& entry_;
};

// Of each arithmetic the best first; the reference is last.
std::span<const Entry> registry();

// The kernel of that name and arithmetic; an empty name takes ISOLOGIT_KERNEL, and without it the best that runs here.
Result<const Kernel*> choose(std::string_view name, Arithmetic arithmetic);

// Settles one logit exactly.
float exact_logit(const Kernel::Block& block, std::int64_t row, const WeightTile& tile, std::int64_t column);

}  // namespace isologit::dot
