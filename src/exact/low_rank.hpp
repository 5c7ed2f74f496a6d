// A low-rank addition to the weight (CONTRACT.md 1), seen from one hidden row.
#pragma once

#include <vector>

#include "exact/bigfloat.hpp"
#include "isologit/head.hpp"

namespace isologit::detail::exact {

// s·Σ_k a[k]·h[k], or the IEEE value of it where that is not finite.
struct LowRankFactor {
  BigFloat value;
  double special = 0;  // inf or NaN; 0: value holds
};

// What the elements of a row of b are multiplied by for the hidden row at `hidden`, one for each row of a.
std::vector<LowRankFactor> low_rank_factors(const Lora& lora, const void* hidden, DType dtype);

}  // namespace isologit::detail::exact
