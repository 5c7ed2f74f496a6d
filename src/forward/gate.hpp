// What a gate and its gradient share.
#pragma once

#include "forward/rows.hpp"

namespace isologit::detail::forward {

inline constexpr double kCubic = static_cast<double>(0.044715F);
inline constexpr double kTwoRootTwoOverPi = 0x1.9884533d43651p+0;  // 2 sqrt(2/pi)

// All but the output.
Result<void> validate_gate(const isologit::forward::GateRequest& request);

}  // namespace isologit::detail::forward
