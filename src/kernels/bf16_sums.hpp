// Sums of bf16 rows by instructions that multiply bf16 and add in f32, beside those of kernels/panel.hpp; included by
// one file per instruction set, which supplies `Products`:
//
//   block_size, scratch_size   floats, as those of Panel
//   store(row, size, index, rows, block)   row `index` of a block of `rows`; a null row stands for zeros
//   multiply(block, rows, tile, sums, scratch, usual)   all sums of a block and a tile, and which weight rows are usual
//   depth(size), multiply_adds(steps)      as those of Panel
//
// The instructions take subnormal elements for 0 and make 0 of subnormal sums. The latter costs at most 2^-126 for each
// of H additions, and never more than the magnitudes that were added, so that later roundings make of it D u of these
// once more: 2 D must be within the bound of docs/kernels.md. The former could cost more, so pairs of rows of which one
// has subnormal elements, is not usual, go through the f32 sums of kernels/panel.hpp, as do types other than bf16. Each
// logit's way depends on its own two rows alone.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/avx512_vectors.hpp"
#include "kernels/f32_tile.hpp"
#include "kernels/prefetch.hpp"

namespace isologit::detail::kernels {
namespace {

// Whether a row of bf16 has subnormal elements: those whose bits without the sign, less 1, are below 127. Reads ahead.
inline bool has_subnormals(const void* row, std::int64_t count) {
  constexpr std::int64_t kOfLine = kLine / 2;
  const char* from = static_cast<const char*>(row);
  __m512i least = _mm512_set1_epi16(-1);
  const auto see = [&](const char* line) {
    const __m512i size = _mm512_and_si512(_mm512_loadu_si512(line), _mm512_set1_epi16(0x7FFF));
    least = _mm512_min_epu16(least, _mm512_sub_epi16(size, _mm512_set1_epi16(1)));
  };
  std::int64_t i = 0;
  for (; i + kOfLine <= count; i += kOfLine) {
    prefetch(from + 2 * i);
    see(from + 2 * i);
  }
  if (i < count) {
    char rest[kLine] = {};
    std::memcpy(rest, from + 2 * i, static_cast<std::size_t>(2 * (count - i)));
    see(rest);
  }
  const __m512i below = _mm512_subs_epu16(_mm512_set1_epi16(127), least);
  return _mm512_test_epi16_mask(below, below) != 0;
}

// A prepared block: that of Panel<Floats>, that of Products, and for each row whether it is usual (1) or not (0).
template <class Products>
struct Bf16Sums : Panel<Floats> {
  // What takes the weight apart, or waits for it, does so once for 256 rows.
  static constexpr std::int64_t kBlockRows = 256;

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) { return marks_at(rows, size) + rows; }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return kTile * rows + std::max(Products::scratch_size(rows, size), Panel::scratch_size(rows, size));
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      float* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    const bool usual = dtype == DType::bf16 && !has_subnormals(row, size);
    block[marks_at(rows, size) + index] = usual ? 1.0F : 0.0F;
    Products::store(usual ? row : nullptr, size, index, rows, block + products_at(rows, size));
  }

  template <class See>
  static std::int64_t sums(const float* block, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch,
                           See&& see) {
    const std::int64_t size = tile.weight->cols;
    const float* usual = block + marks_at(rows, size);
    const bool any = std::count(usual, usual + rows, 1.0F) > 0 && tile.weight->dtype == DType::bf16;
    if (!any) return Panel::sums(block, rows, tile, sums, scratch, see);
    bool usual_weight[kTile] = {};
    Products::multiply(block + products_at(rows, size), rows, tile, sums, scratch + kTile * rows, usual_weight);
    const bool all = std::count(usual, usual + rows, 1.0F) == rows &&
                     std::count(usual_weight, usual_weight + tile.count, true) == tile.count;
    if (all) return Products::depth(size);
    float* others = scratch;
    const std::int64_t deepest = Panel::sums(block, rows, tile, others, scratch + kTile * rows, see);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < tile.count; ++j) {
        if (usual[r] == 0 || !usual_weight[j]) sums[r * kTile + j] = others[r * kTile + j];
      }
    }
    return std::max(deepest, Products::depth(size));
  }

  static std::int64_t multiply_adds(std::int64_t steps) { return Products::multiply_adds(steps); }

 private:
  // Whole lines, each.
  static std::int64_t products_at(std::int64_t rows, std::int64_t size) { return lines(Panel::block_size(rows, size)); }
  static std::int64_t marks_at(std::int64_t rows, std::int64_t size) {
    return products_at(rows, size) + lines(Products::block_size(rows, size));
  }
  static std::int64_t lines(std::int64_t floats) { return (floats + 15) / 16 * 16; }
};

}  // namespace
}  // namespace isologit::detail::kernels
