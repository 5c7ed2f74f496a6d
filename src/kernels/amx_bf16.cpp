// The first pass for bf16 results by TDPBF16PS (kernels/bf16_pass_impl.hpp).
//
// Roundings. In a step the instruction makes two chains of sixteen fused multiply-adds from 0, of the even and of the
// odd elements, adds them to one another and their sum to the accumulator (Intel SDM; a Xeon does so bit for bit). The
// product of pair p passes through 16 - p and one.
//
// Predicted and measured (256 rows, a weight of 3072 x 1024, a thread of a Xeon that shared its core with other work,
// in ms): products 0.6 at 512 a cycle, 1.1; rounding and packing 1, 1.2; 5.1 % of the results open, for 0.9 by sums of
// four products and 0.4 by those of fewer, 1.6 and 0.8: rows come from L2, one for each open result. All 5.3, where
// sums in f64 of what is open took 6.6; by the digits of kernels/amx.cpp 14, by f64 34, stock bf16 of torch 1.5. Chunks
// of 8 steps cost products little and leave a third less open than one chain. One row is bound by memory, and 5 %
// slower than by f64.
#include "kernels/amx_tiles.hpp"
#include "kernels/bf16_pass_impl.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

struct TileProducts {
  using Results = Bf16Results<TileProducts>;

  static constexpr std::int64_t kStepSums = 1;
  static constexpr std::int64_t kChunkSteps = 8;

  static constexpr std::int64_t pair_roundings(std::int64_t pair) { return 17 - pair; }

  // sums[group][weight row][16] of all groups and the tile's four groups of weight rows.
  static void multiply(const char* hidden, std::int64_t groups, const char* weight, std::int64_t steps, float* sums) {
    memory_is_needed();
    const TileRegisters registers;
    const std::int64_t group_bytes = steps * kTileBytes;
    for (std::int64_t first = 0; first < steps; first += kChunkSteps) {
      const std::int64_t count = std::min(kChunkSteps, steps - first);
      const char* h = hidden + first * kTileBytes;
      const char* w = weight + first * kTileBytes;
      std::int64_t g = 0;
      for (; g + 2 <= groups; g += 2) {
        float* to = sums + g * kGroupSums;
        two_by_two(h + g * group_bytes, w, group_bytes, count, first == 0, to);
        two_by_two(h + g * group_bytes, w + 2 * group_bytes, group_bytes, count, first == 0, to + 2 * kTileSums);
      }
      if (g < groups) {
        four_by_one(h + g * group_bytes, w, group_bytes, count, first == 0, sums + g * kGroupSums);
      }
    }
    memory_is_needed();
  }

 private:
  static constexpr std::int64_t kTileSums = kSide * kSide;
  static constexpr std::int64_t kGroupSums = kBf16Tile * kSide;

  // Two groups of weight rows and two of hidden rows.
  static void two_by_two(const char* hidden, const char* weight, std::int64_t group_bytes, std::int64_t steps,
                         bool first, float* sums) {
    clear_sums();
    for (std::int64_t s = 0; s < steps; ++s, hidden += kTileBytes, weight += kTileBytes) {
      _tile_loadd(4, weight, 64);
      _tile_loadd(6, hidden, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, hidden + group_bytes, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, weight + group_bytes, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    add(first, sums, sums + kGroupSums, sums + kTileSums, sums + kGroupSums + kTileSums);
  }

  // Four groups of weight rows and one of hidden rows.
  static void four_by_one(const char* hidden, const char* weight, std::int64_t group_bytes, std::int64_t steps,
                          bool first, float* sums) {
    clear_sums();
    for (std::int64_t s = 0; s < steps; ++s, hidden += kTileBytes, weight += kTileBytes) {
      _tile_loadd(6, hidden, 64);
      _tile_loadd(4, weight, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, weight + group_bytes, 64);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(7, weight + 2 * group_bytes, 64);
      _tile_dpbf16ps(2, 7, 6);
      _tile_loadd(4, weight + 3 * group_bytes, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
    add(first, sums, sums + kTileSums, sums + 2 * kTileSums, sums + 3 * kTileSums);
  }

  // Tiles 0 to 3 to four tiles of sums, or onto them.
  static void add(bool first, float* a, float* b, float* c, float* d) {
    if (first) {
      _tile_stored(0, a, 64);
      _tile_stored(1, b, 64);
      _tile_stored(2, c, 64);
      _tile_stored(3, d, 64);
      return;
    }
    alignas(64) float tiles[4][kTileSums];
    _tile_stored(0, tiles[0], 64);
    _tile_stored(1, tiles[1], 64);
    _tile_stored(2, tiles[2], 64);
    _tile_stored(3, tiles[3], 64);
    memory_is_needed();
    add_tile(tiles[0], a);
    add_tile(tiles[1], b);
    add_tile(tiles[2], c);
    add_tile(tiles[3], d);
  }

  static void add_tile(const float* tile, float* sums) {
    for (std::int64_t i = 0; i < kTileSums; i += 16) {
      _mm512_storeu_ps(sums + i, _mm512_add_ps(_mm512_loadu_ps(sums + i), _mm512_loadu_ps(tile + i)));
    }
  }
};

constexpr Bf16Pass kTilePass = TileProducts::Results::pass(2);

}  // namespace

const Bf16Pass& amx_bf16_pass() { return kTilePass; }

}  // namespace isologit::detail::kernels
