// AMX, fast arithmetic: bf16 elements multiplied and added up in f32 by TDPBF16PS, for bf16 hidden states and weights.
//
// The order: the elements of k are taken in chunks of kChunkSteps steps of 32. In a step, as the instruction does it,
// even and odd elements each make a chain of 16 fused multiply-adds from 0, the two are added to one another and their
// sum to the chunk's; the chunks' sums are added in turn. So a term passes through 17 + kChunkSteps + H / 1024
// roundings at most, fewer than kernels/f32_tile.hpp allows for.
//
// Rows with subnormal elements and types other than bf16 go another way: kernels/bf16_sums.hpp.
//
// Floor: the weight is loaded into tiles straight from memory. 32 by 32 rows at a time: four loads of 8 cycles for four
// products of 16, 32768 multiply-adds in 64 cycles. 256 rows wait for hidden, 2 MB of 4096 elements, from L3: all
// weight rows of a tile meet a chunk of 32 hidden rows, and the next tile is fetched evenly meanwhile. Both together,
// CPU time of tiles on a busy Xeon, before and after, ns a logit: H=4096 64 rows 22 and 20, 240 rows 17 and 14. More
// than 64 rows fetch while rows are looked through, too: 256 rows 238 and 225 ms at H=1024, 184 and 180 at H=4096 (up
// to 32 rows would take 1.05 to 1.3 times as long). (A
// tile's rows copied to lie side by side took 1.2 to 1.6 times as long.) Few rows wait for the weight, which is looked
// through for subnormals before it is multiplied: it is read ahead there; of up to 16 rows no second tile of hidden
// rows is multiplied. One thread, V=151936, H=1024, before and after in turns, ms: one row 49 and 34, 16 rows 62 and
// 42, 64 rows 122 and 82, 256 rows 434 and 287; avx512_fast does one row in 30.
// Few rows take 1.3 times as long as memory does. Tried without gain: to look through the rows of a step where it is
// multiplied (H=1024 0.93, H=4096 1.2 times as long), to fetch 16 or 32 lines of the next tile a step instead of 8
// (1.05 to 1.35), or 1 or 3 (the same).
//
// Blocks of 256 rows: with 240, which kernels/panel.hpp wants, 256 rows were two blocks of 128, of CPU ns for an
// element of the weight (H=4096) 0.505 each, where one of 256 takes 0.784.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.hpp"
#include "kernels/bf16_sums.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

// Sixteen weight rows of one step in a tile's row each.
struct WeightRows {
  const char* first;
  std::int64_t stride;  // bytes
};

// For Bf16Sums. A block: hidden[group of 16 rows][step][pair of elements][16 rows][2].
struct FastTiles {
  static std::int64_t block_size(std::int64_t rows, std::int64_t size) {
    return groups_of(rows) * steps_of(size) * kTileBytes / 4;
  }
  static std::int64_t scratch_size(std::int64_t, std::int64_t size) {
    return kTile / (2 * kSide) * kCopy * steps_of(size);
  }

  static std::int64_t depth(std::int64_t size) { return 17 + kChunkSteps + steps_of(size) / kChunkSteps + 1; }

  static void store(const void* row, std::int64_t size, std::int64_t index, std::int64_t rows, float* block) {
    char* group = reinterpret_cast<char*>(block) + index / kSide * steps_of(size) * kTileBytes;
    store_column(group, index % kSide, static_cast<const char*>(row), size);
    if (index != rows - 1) return;
    for (std::int64_t column = rows % kSide; column % kSide != 0; ++column) store_column(group, column, nullptr, size);
  }

  static void multiply(const float* block, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch,
                       bool* usual) {
    const std::int64_t steps = steps_of(tile.weight->cols);
    // As long as looking through a row takes, in steps of 32 rows, about. Few rows wait for memory then as it is.
    const std::int64_t look = rows > 64 ? (steps + 15) / 16 : 0;
    Ahead next = behind(tile, steps * pairs_of_groups(rows) * pairs_of_groups(tile.count) + look * tile.count);
    for (std::int64_t j = 0; j < tile.count; ++j) {
      next.fetch(look);
      usual[j] = !has_subnormals(exact::row_data(*tile.weight, tile.first + j), tile.weight->cols);
    }
    if (std::count(usual, usual + tile.count, true) == 0) return;
    multiply_tile(reinterpret_cast<const char*>(block), rows, tile, sums, scratch, next);
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
  static constexpr std::int64_t kCopy = 2 * kTileBytes / static_cast<std::int64_t>(sizeof(float));  // of a step

  static std::int64_t steps_of(std::int64_t size) { return (size + kStep - 1) / kStep; }

  static std::int64_t pairs_of_groups(std::int64_t rows) { return (groups_of(rows) + 1) / 2; }

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
                             Ahead& next) {
    for (std::int64_t s = 0; s < steps; ++s) {
      next.fetch(1);
      _tile_loadd(4, weight.first + s * 64, weight.stride);
      _tile_loadd(6, left + s * kTileBytes, 64);
      if constexpr (kRight) _tile_loadd(7, right + s * kTileBytes, 64);
      _tile_loadd(5, weight.first + kSide * weight.stride + s * 64, weight.stride);
      multiply_tiles<kRight>();
    }
  }

  static void multiply_tile(const char* hidden, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch,
                            Ahead& next) {
    const std::int64_t steps = steps_of(tile.weight->cols);
    const std::int64_t group_bytes = steps * kTileBytes;
    std::memset(sums, 0, static_cast<std::size_t>(rows * kTile) * sizeof(float));
    const TileRegisters registers;
    WeightRows weight[kTile / (2 * kSide)];
    for (std::int64_t j = 0; j < tile.count; j += 2 * kSide) {
      weight[j / (2 * kSide)] = rows_of(tile, j, scratch + j / (2 * kSide) * kCopy * steps);
    }
    for (std::int64_t first = 0; first < steps; first += kChunkSteps) {
      const std::int64_t last = std::min(first + kChunkSteps, steps);
      for (std::int64_t r = 0; r < rows; r += 2 * kSide) {
        const char* left = hidden + r / kSide * group_bytes + first * kTileBytes;
        for (std::int64_t j = 0; j < tile.count; j += 2 * kSide) {
          const WeightRows& of_j = weight[j / (2 * kSide)];
          const WeightRows part{of_j.first + first * 64, of_j.stride};
          clear_sums();
          if (r + kSide < rows) {
            multiply_steps<true>(part, left, left + group_bytes, last - first, next);
          } else {
            multiply_steps<false>(part, left, nullptr, last - first, next);
          }
          add(std::min(2 * kSide, rows - r), std::min(2 * kSide, tile.count - j), sums + r * kTile + j);
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

struct TileSums : Bf16Sums<FastTiles> {};

}  // namespace

const Target& amx_fast_target(const Entry& entry) {
  return only<F32Target<TileSums>, k_amx_fast_shape>(entry, amx_loops());
}

}  // namespace isologit::detail::kernels
