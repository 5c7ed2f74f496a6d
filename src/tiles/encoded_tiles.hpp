// Encoded weights for kernels, which take elements of bf16, f16 and f32: decoded a tile at a time.
//
// A number with more bits than an f32 is the sum of several (parts), so a row of the weight becomes its parts beside
// one another, and hidden rows are repeated as often: the same real sum over more products of f32 numbers, which is
// what kernels are exact at. f64 has three parts (24 + 24 + 5 bits), the real product of an f8 and an f32 scale two (28
// bits), that of a narrower scale and a product rounded to bf16 one. The number of parts follows from the types alone,
// so the order of `fast` sums does not depend on the numbers. What parts cannot be right about is settled by the
// definition (exact::wide_logit): weight rows with a number that is no such sum, beyond f32's range or below its
// smallest; and, with several parts, of which some are 0, whatever is not finite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "isologit/head.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::tiles {

// The elements of a row that a kernel is given, of the weight and of hidden, and the type of those of the weight.
std::int64_t kernel_columns(const Head& head);
DType kernel_dtype(const Head& head);

class EncodedTiles {
 public:
  explicit EncodedTiles(const Head& head);

  // Whether the weight is encoded. If not, kernels are given it and the hidden rows as they are.
  bool needed() const { return head_.encoded.encoding != Encoding::none; }

  // The hidden rows that a kernel is to be given for these: themselves where a number is one element, else one after
  // another, repeated. Throws std::bad_alloc.
  void take(const MatrixView& hidden, std::span<const std::int64_t> rows, int threads);
  const MatrixView& hidden() const { return repeated_; }
  const std::int64_t* row_ids(std::size_t begin) const { return ids_.data() + begin; }

  // What one thread decodes into.
  struct Tile {
    base::AlignedBuffer elements;
    std::vector<double> row;
    std::vector<std::uint8_t> special;  // weight rows that are left to the definition
  };
  void reserve(Tile& tile, std::int64_t tile_vocab) const;
  // Weight rows [first, first + count).
  void decode(std::int64_t first, std::int64_t count, Tile& tile) const;

  // The logits of weight rows [first, first + count), decoded before, and of the hidden rows that block.row_ids names
  // among those taken; stride is the kernel's tile_vocab.
  void logits(const kernels::Target& target, const kernels::Block& block, std::int64_t first, std::int64_t count,
              Tile& tile, float* logits, void* scratch, kernels::Counts& counts) const;

 private:
  std::int64_t cols() const { return parts_ * head_.weight.cols; }
  // False where a number is not the sum of its parts; all are then 0.
  bool store_row(const double* numbers, std::byte* to) const;

  Head head_;
  std::int64_t parts_;
  DType dtype_;  // of a decoded tile
  const MatrixView* given_ = nullptr;
  std::vector<std::int64_t> given_rows_;
  base::AlignedBuffer elements_;
  MatrixView repeated_;
  std::vector<std::int64_t> ids_;
  std::vector<std::uint8_t> special_;  // hidden rows that are left to the definition
};

}  // namespace isologit::detail::tiles
