// The angles of rotary embeddings: position * frequency, over the reals.
#pragma once

#include <cstdint>

#include "exact/trigonometry.hpp"

namespace isologit::detail::forward {

struct Turn {
  double cosine;
  double sine;
};
// Each within 2^-50. position is in [0, 2^31), frequency in [0, 1].
Turn turn_of(std::int64_t position, float frequency);

exact::SineCosine exact_turn_of(std::int64_t position, float frequency, std::size_t limbs);

}  // namespace isologit::detail::forward
