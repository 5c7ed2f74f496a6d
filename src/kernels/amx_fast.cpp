// AMX, fast arithmetic: bf16 elements multiplied and added up in f32 by TDPBF16PS, for bf16 hidden states and weights.
//
// The order: the elements of k are taken in chunks of kChunkSteps steps of 32. In a step, as the instruction does it,
// even and odd elements each make a chain of 16 fused multiply-adds from 0, the two are added to one another and their
// sum to the chunk's; the chunks' sums are added in turn. So a term passes through 17 + kChunkSteps + H / 1024
// roundings at most, fewer than kernels/f32_tile.hpp allows for.
//
// The instruction takes subnormal elements for 0 and makes 0 of subnormal sums. The latter costs at most 2^-126 for
// each addition; the former could cost more, so pairs of rows of which one has subnormal elements go through the f32
// sums of kernels/panel.hpp, as do types other than bf16. Each logit's way depends on its own two rows alone.
//
// Floor: the weight is loaded into tiles straight from memory. 32 by 32 rows at a time: four loads of 8 cycles for four
// products of 16, 32768 multiply-adds in 64 cycles. Measured: 256 rows at 280 GFLOP/s a core, a fifth of the products
// alone. Few rows wait for the weight, which is looked through for subnormals before it is multiplied: it is read ahead
// there, and by a tile while tiles multiply; of up to 16 rows no second tile of hidden rows is multiplied. One thread,
// V=151936, H=1024, before and after in turns, ms: one row 49 and 34, 16 rows 62 and 42, 64 rows 122 and 82, 256 rows
// 434 and 287; avx512_fast does one row in 30.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.hpp"
#include "kernels/avx512_vectors.hpp"
#include "kernels/f32_tile.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

// Whether a row of bf16 has subnormal elements: those whose bits without the sign, less 1, are below 127. Reads ahead.
bool has_subnormals(const void* row, std::int64_t count) {
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

// Sixteen weight rows of one step in a tile's row each.
struct WeightRows {
  const char* first;
  std::int64_t stride;  // bytes
};

// Sums as those of Panel<Floats>, whose prepared block it keeps in front of its own.
struct Bf16Sums : Panel<Floats> {
  static std::int64_t block_size(std::int64_t rows, std::int64_t size) {
    return marks_at(rows, size) + groups_of(rows) * kSide;
  }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return kTile * rows + kCopy * steps_of(size) + Panel::scratch_size(rows, size);
  }

  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      float* block) {
    Panel::prepare(row, dtype, size, index, rows, block);
    const bool usual = dtype == DType::bf16 && !has_subnormals(row, size);
    block[marks_at(rows, size) + index] = usual ? 1.0F : 0.0F;
    char* pairs = reinterpret_cast<char*>(block + pairs_at(rows, size)) + index / kSide * steps_of(size) * kTileBytes;
    store_column(pairs, index % kSide, usual ? static_cast<const char*>(row) : nullptr, size);
    if (index != rows - 1) return;
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) store_column(pairs, column, nullptr, size);
  }

  template <class See>
  static std::int64_t sums(const float* block, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch,
                           See&& see) {
    const std::int64_t size = tile.weight->cols;
    const float* hidden_marks = block + marks_at(rows, size);
    bool weight_marks[kTile] = {};
    for (std::int64_t j = 0; j < tile.count && tile.weight->dtype == DType::bf16; ++j) {
      weight_marks[j] = !has_subnormals(exact::row_data(*tile.weight, tile.first + j), size);
    }
    const bool any_hidden = std::count(hidden_marks, hidden_marks + rows, 1.0F) > 0;
    const bool any_weight = std::count(weight_marks, weight_marks + tile.count, true) > 0;
    if (!any_hidden || !any_weight) return Panel::sums(block, rows, tile, sums, scratch, see);
    multiply(reinterpret_cast<const char*>(block + pairs_at(rows, size)), rows, tile, sums, scratch);
    const bool all = std::count(hidden_marks, hidden_marks + rows, 1.0F) == rows &&
                     std::count(weight_marks, weight_marks + tile.count, true) == tile.count;
    if (all) return depth(size);
    float* others = scratch;
    const std::int64_t deepest = Panel::sums(block, rows, tile, others, scratch + kTile * rows, see);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < tile.count; ++j) {
        if (hidden_marks[r] == 0 || !weight_marks[j]) sums[r * kTile + j] = others[r * kTile + j];
      }
    }
    return std::max(deepest, depth(size));
  }

  static std::int64_t multiply_adds(std::int64_t steps) {
    const char zeros[kTileBytes] = {};
    const TileRegisters registers;
    clear_sums();
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    for (std::int64_t step = 0; step < steps; ++step) multiply_tiles<true>();
    return steps * 4 * kSide * kSide * kStep;
  }

 private:
  static constexpr std::int64_t kStep = 32;  // elements of a tile's row
  static constexpr std::int64_t kChunkSteps = 32;
  static constexpr std::int64_t kLinesPerStep = 8;
  static constexpr std::int64_t kCopy = 2 * kTileBytes / static_cast<std::int64_t>(sizeof(float));  // of a step

  static std::int64_t steps_of(std::int64_t size) { return (size + kStep - 1) / kStep; }

  static std::int64_t depth(std::int64_t size) { return 17 + kChunkSteps + steps_of(size) / kChunkSteps + 1; }

  // A prepared block: that of Panel, hidden[group of 16 rows][step][pair of elements][16 rows][2], and for each row
  // whether it goes through tiles (1) or not (0).
  static std::int64_t pairs_at(std::int64_t rows, std::int64_t size) {
    return (Panel::block_size(rows, size) + 15) / 16 * 16;
  }
  static std::int64_t marks_at(std::int64_t rows, std::int64_t size) {
    return pairs_at(rows, size) + groups_of(rows) * steps_of(size) * kTileBytes / 4;
  }

  // A null row stands for zeros.
  static void store_column(char* group, std::int64_t column, const char* row, std::int64_t size) {
    for (std::int64_t k = 0; k < steps_of(size) * kStep; k += 2) {
      char pair[4] = {};
      if (row != nullptr && k < size) std::memcpy(pair, row + 2 * k, k + 1 < size ? 4 : 2);
      std::memcpy(group + k / kStep * kTileBytes + (k % kStep / 2 * kSide + column) * 4, pair, 4);
    }
  }

  // Tiles 0 to 3 are the sums, 4 and 5 hold weight rows, 6 and, of more than 16, 7 hidden rows.
  template <bool kRight>
  static void multiply_tiles() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kRight) _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kRight) _tile_dpbf16ps(3, 5, 7);
  }

  // `steps` steps of 32 weight rows and 16 hidden rows, or 32 of them.
  template <bool kRight>
  static void multiply_steps(const WeightRows& weight, const char* left, const char* right, std::int64_t steps,
                             NextTile& next) {
    for (std::int64_t s = 0; s < steps; ++s) {
      next.fetch(kLinesPerStep);
      _tile_loadd(4, weight.first + s * 64, weight.stride);
      _tile_loadd(6, left + s * kTileBytes, 64);
      if constexpr (kRight) _tile_loadd(7, right + s * kTileBytes, 64);
      _tile_loadd(5, weight.first + kSide * weight.stride + s * 64, weight.stride);
      multiply_tiles<kRight>();
    }
  }

  static void multiply(const char* hidden, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch) {
    const std::int64_t size = tile.weight->cols;
    const std::int64_t steps = steps_of(size);
    const std::int64_t group_bytes = steps * kTileBytes;
    std::memset(sums, 0, static_cast<std::size_t>(rows * kTile) * sizeof(float));
    NextTile next(tile);
    const TileRegisters registers;
    for (std::int64_t j = 0; j < tile.count; j += 2 * kSide) {
      const WeightRows weight = rows_of(tile, j, scratch);
      const std::int64_t held = std::min(2 * kSide, tile.count - j);
      for (std::int64_t first = 0; first < steps; first += kChunkSteps) {
        const std::int64_t last = std::min(first + kChunkSteps, steps);
        for (std::int64_t r = 0; r < rows; r += 2 * kSide) {
          const WeightRows part{weight.first + first * 64, weight.stride};
          const char* left = hidden + r / kSide * group_bytes + first * kTileBytes;
          clear_sums();
          if (r + kSide < rows) {
            multiply_steps<true>(part, left, left + group_bytes, last - first, next);
          } else {
            multiply_steps<false>(part, left, nullptr, last - first, next);
          }
          add(std::min(2 * kSide, rows - r), held, sums + r * kTile + j);
        }
      }
    }
  }

  // The 32 weight rows from j on: where they are, or a copy filled up with zeros where there are fewer, or where a row
  // does not end with a step.
  static WeightRows rows_of(const WeightTile& tile, std::int64_t j, float* scratch) {
    const MatrixView& weight = *tile.weight;
    const char* first = static_cast<const char*>(exact::row_data(weight, tile.first + j));
    if (tile.count - j >= 2 * kSide && weight.cols % kStep == 0) return {first, weight.row_stride * 2};
    const std::int64_t stride = steps_of(weight.cols) * 64;
    char* copy = reinterpret_cast<char*>(scratch);
    std::memset(copy, 0, static_cast<std::size_t>(2 * kSide * stride));
    for (std::int64_t i = 0; i < std::min(2 * kSide, tile.count - j); ++i) {
      std::memcpy(copy + i * stride, exact::row_data(weight, tile.first + j + i),
                  static_cast<std::size_t>(weight.cols * 2));
    }
    memory_is_needed();
    return {copy, stride};
  }

  // Adds tiles 0 to 3, [weight][hidden], to the sums of `hidden_rows` rows and `weight_rows` ids.
  static void add(std::int64_t hidden_rows, std::int64_t weight_rows, float* sums) {
    alignas(64) float tiles[4][kSide][kSide];
    _tile_stored(0, tiles[0], 64);
    _tile_stored(1, tiles[1], 64);
    _tile_stored(2, tiles[2], 64);
    _tile_stored(3, tiles[3], 64);
    memory_is_needed();
    for (std::int64_t r = 0; r < hidden_rows; r += kSide) {
      for (std::int64_t j = 0; j < weight_rows; j += kSide) {
        __m512 values[kSide];
        for (std::int64_t i = 0; i < kSide; ++i) values[i] = _mm512_load_ps(tiles[j / kSide * 2 + r / kSide][i]);
        transpose(values);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kSide; ++i) {
          if (r + i >= hidden_rows) break;
          float* to = sums + (r + i) * kTile + j;
          _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), values[i]));
        }
      }
    }
  }
};

}  // namespace

const Target& amx_fast_target(const Entry& entry) {
  return only<F32Target<Bf16Sums>, k_amx_fast_shape>(entry, amx_loops());
}

}  // namespace isologit::detail::kernels
