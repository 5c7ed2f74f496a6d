// Rows of elements as f32, which holds each of them, and back.
#pragma once

#include <cstdint>

#include "isologit/dtype.hpp"

namespace isologit::detail::exact {

// `count` adjacent elements at `from`, aligned or not.
void widen_row(const void* from, DType dtype, std::int64_t count, float* to);

// Numbers of the type, and NaN, which becomes the type's quiet one.
void narrow_row(const float* from, DType dtype, std::int64_t count, void* to);

}  // namespace isologit::detail::exact
