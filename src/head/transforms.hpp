// What is done to a tile's logits before they are folded (CONTRACT.md 2).
#pragma once

#include <cstdint>

#include "fold/lanes.hpp"
#include "isologit/head.hpp"

namespace isologit::head {

// Softcap, scale, temperature, in this order, each rounded once, in place. count is a multiple of fold::kLaneGroup.
void apply(const Transforms& transforms, float temperature, const fold::Lanes& lanes, float* logits,
           std::int64_t count);

}  // namespace isologit::head
