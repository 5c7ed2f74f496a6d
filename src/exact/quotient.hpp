// A quotient, rounded once.
#pragma once

#include "exact/bigfloat.hpp"

namespace isologit::detail::exact {

// RN32(numerator / denominator), denominator > 0.
float round_quotient(const BigFloat& numerator, const BigFloat& denominator);

}  // namespace isologit::detail::exact
