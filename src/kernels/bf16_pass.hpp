// Results in bf16 of rows and a weight in bf16, of processors with products of bf16: a first pass in f32 with a proven
// bound settles most, and what it leaves open is computed anew, more precisely. The results are those of CONTRACT.md 1
// for `logits_dtype` bf16, bit for bit, whoever computes them; kernels/bf16_pass_impl.hpp says why.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isologit/view.hpp"

namespace isologit::detail::kernels {

struct Counts;
struct WeightTile;

// Hidden rows are prepared in groups of so many.
constexpr std::int64_t kBf16Group = 16;
// A block is best of so many rows at most, and a tile of the weight of so many.
constexpr std::int64_t kBf16Rows = 1024;
constexpr std::int64_t kBf16Tile = 64;

// The result of block row r and tile row j is written to data[r * row_stride + j], an element of bf16, which need not
// be aligned.
struct Bf16Output {
  char* data;
  std::int64_t row_stride;
};

struct Bf16Pass {
  std::int64_t fewest_rows;  // below, it is slower than what computes f32 results
  std::int64_t most_columns;

  // Bytes of a prepared block and of one thread's scratch, for rows of `size` elements.
  std::size_t (*prepared_bytes)(std::int64_t rows, std::int64_t size);
  std::size_t (*scratch_bytes)(std::int64_t rows, std::int64_t size);
  // Prepares one group of the block `hidden`. Different groups may be prepared concurrently.
  void (*prepare)(const MatrixView& hidden, std::int64_t group, void* prepared);
  void (*results)(const MatrixView& hidden, const void* prepared, const WeightTile& tile, const Bf16Output& to,
                  void* scratch, Counts& counts);
};

}  // namespace isologit::detail::kernels
