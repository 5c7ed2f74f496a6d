// exp and log of balls, at any precision. Each is its defining series with the remainder added to the radius.
#pragma once

#include "exact/ball.hpp"

namespace isologit::detail::exact {

// e^x, |x| below 2^62. The radius of x must be below 1/2.
Ball exp(const Ball& x, std::size_t limbs);
// The same of x < 2^40 however far below 0; a result below 2^(-256 limbs) is only known to be that small.
Ball exp_or_tiny(const Ball& x, std::size_t limbs);

// ln x; x is positive throughout the ball.
Ball log(const Ball& x, std::size_t limbs);

// ln(1 + x) with relative accuracy for small x; x > -1 throughout the ball.
Ball log1p(const Ball& x, std::size_t limbs);

// tanh x, x >= 0, to about 64 * limbs bits absolutely.
Ball tanh(const Ball& x, std::size_t limbs);

// c * tanh(z / c), rounded once to `format` (f32 or narrower); c > 0 and finite (CONTRACT.md 2). z may be infinite or
// NaN.
double softcap(float z, float c, const Format& format);

}  // namespace isologit::detail::exact
