// Sine and cosine in ball arithmetic.
#pragma once

#include <cstddef>

#include "exact/ball.hpp"

namespace isologit::detail::exact {

struct SineCosine {
  Ball sine;
  Ball cosine;
};
// Of the angle itself, in radians, below 2^48 in magnitude; both are known to about 64 limbs bits absolutely.
SineCosine sine_cosine(const BigFloat& angle, std::size_t limbs);

}  // namespace isologit::detail::exact
