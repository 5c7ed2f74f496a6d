// What is done to a tile's logits before they are folded (CONTRACT.md 2).
#pragma once

#include <cstdint>
#include <span>

#include "isologit/head.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::tiles {

// Whether the softcap is given scaled logits. Without a softcap there is no order.
bool scales_before_softcap(const Transforms& transforms);

// Softcap and scale, each rounded once, in place. `uncapped`, where it is not null, receives what the softcap is given.
// count is a multiple of kernels::kLaneGroup.
void apply(const Transforms& transforms, const kernels::FoldLoops& loops, float* logits, std::int64_t count,
           float* uncapped);

// The temperature of a row, of none, one for all, or one a row.
float temperature_of(std::span<const float> temperatures, std::int64_t row);

// The last step, likewise.
void apply_temperature(float temperature, float* logits, std::int64_t count);

}  // namespace isologit::detail::tiles
