// What is done to a tile's logits before they are folded (CONTRACT.md 2).
#pragma once

#include <cstdint>
#include <span>

#include "isologit/head.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::tiles {

// Softcap, then scale, each rounded once, in place. count is a multiple of kernels::kLaneGroup.
void apply(const Transforms& transforms, const kernels::FoldLoops& loops, float* logits, std::int64_t count);

// The temperature of a row, of none, one for all, or one a row.
float temperature_of(std::span<const float> temperatures, std::int64_t row);

// The last step, likewise.
void apply_temperature(float temperature, float* logits, std::int64_t count);

}  // namespace isologit::detail::tiles
