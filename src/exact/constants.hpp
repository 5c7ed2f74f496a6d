// Constants in ball arithmetic, to about 64 * limbs bits; each is made once for a precision.
#pragma once

#include <cstddef>

#include "exact/ball.hpp"

namespace isologit::detail::exact {

Ball ln2(std::size_t limbs);
Ball pi(std::size_t limbs);

}  // namespace isologit::detail::exact
