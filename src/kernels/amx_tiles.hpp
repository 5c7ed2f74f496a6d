// The AMX tiles as the kernels of AMX use them; for files compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kSide = 16;  // rows of a tile, each of 64 bytes
constexpr std::int64_t kTileBytes = 1024;

constexpr std::int64_t groups_of(std::int64_t rows) { return (rows + kSide - 1) / kSide; }

// GCC 12 does not tell its optimiser that the tile instructions touch memory: this keeps what was stored before them.
inline void memory_is_needed() { asm volatile("" ::: "memory"); }

// Tiles 0 to 3, where products of bf16 are added up.
inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Eight tiles of sixteen rows of 64 bytes, while it lives.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  ~TileRegisters() { _tile_release(); }
};

}  // namespace
}  // namespace isologit::detail::kernels
