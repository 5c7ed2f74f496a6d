// The random words of a draw (CONTRACT.md 4).
#pragma once

#include <array>
#include <cstdint>

#include "base/philox.hpp"

namespace isologit::detail::kernels {

struct Draw {
  std::uint64_t seed = 0;
  std::uint64_t sequence = 0;
  std::uint32_t position = 0;
};

enum class Word : std::uint32_t { first = 0, second = 0x80000000U };  // what each adds to the block's number

// The four words of ids 4 block, ..., 4 block + 3.
inline std::array<std::uint32_t, 4> draw_block(const Draw& draw, std::uint32_t block, Word word) {
  return base::philox4x32_10(
      {block + static_cast<std::uint32_t>(word), draw.position, static_cast<std::uint32_t>(draw.sequence),
       static_cast<std::uint32_t>(draw.sequence >> 32)},
      {static_cast<std::uint32_t>(draw.seed), static_cast<std::uint32_t>(draw.seed >> 32)});
}

inline std::uint32_t draw_word(const Draw& draw, std::int64_t id, Word word) {
  return draw_block(draw, static_cast<std::uint32_t>(id / 4), word)[static_cast<std::size_t>(id % 4)];
}

}  // namespace isologit::detail::kernels
