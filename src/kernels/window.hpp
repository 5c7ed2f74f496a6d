// The window of bits that holds most elements of a row, where a few tower over the others.
#pragma once

#include <bit>
#include <cstdint>
#include <iterator>

#include "exact/element.hpp"

namespace isologit::detail::kernels {
namespace {

// The unit, an exponent of 2, of which the most finite elements, of every `every`th, are multiples of 2^(unit + low)
// below 2^(unit + low + bits).
inline int best_unit(const void* row, DType dtype, std::int64_t size, int low, int bits, std::int64_t every) {
  // starts[e] counts the elements that are held from the unit 2^(e - kLeast) on, less those that are up to there.
  constexpr int kLeast = 175;
  std::int32_t starts[kLeast + 130] = {};
  for (std::int64_t k = 0; k < size; k += every) {
    const auto pattern = std::bit_cast<std::uint32_t>(exact::load_element(row, dtype, k));
    const auto exponent = static_cast<int>(pattern >> 23 & 0xFF);
    const std::uint32_t significand = (pattern & 0x7FFFFF) | (exponent != 0 ? 0x800000U : 0);
    if (exponent == 0xFF || significand == 0) continue;
    const int last_bit = (exponent != 0 ? exponent : 1) - 150;
    const int last = last_bit + std::countr_zero(significand) - low;
    const int first = last_bit + 32 - std::countl_zero(significand) - bits - low;
    if (last < first) continue;
    ++starts[first + kLeast];
    --starts[last + 1 + kLeast];
  }
  std::int32_t held = 0;
  std::int32_t most = 0;
  int best = 0;
  for (int i = 0; i < static_cast<int>(std::size(starts)); ++i) {
    held += starts[i];
    if (held > most) {
      most = held;
      best = i - kLeast;
    }
  }
  return best;
}

}  // namespace
}  // namespace isologit::detail::kernels
