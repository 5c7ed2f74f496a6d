// Square roots, and the one rounding of an expression that holds one.
#pragma once

#include <cstddef>

#include "exact/ball.hpp"
#include "exact/rounding.hpp"

namespace isologit::detail::exact {

// The roots of every number of x, all of which are above 0.
Ball sqrt(const Ball& x, std::size_t limbs);

// The real number shift + sqrt(numerator / denominator), or shift - sqrt(...) where `negative`, rounded once. The
// numerator is at least 0, the denominator above it. Always ends: where the root is too near a boundary between two
// roundings, squares are compared.
double round_with_root(const BigFloat& shift, bool negative, const BigFloat& numerator, const BigFloat& denominator,
                       const Format& format);

}  // namespace isologit::detail::exact
