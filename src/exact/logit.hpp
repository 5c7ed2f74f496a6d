// One logit by the definition (CONTRACT.md 1): the reference that every kernel equals.
#pragma once

#include <cstdint>
#include <span>

#include "exact/low_rank.hpp"
#include "exact/rounding.hpp"
#include "isologit/view.hpp"

namespace isologit::detail::exact {

// RN( sum over k of hidden[k] * weight[k], + bias ), rounded once to `format`; hidden and weight point to `size`
// adjacent elements. NaN when a term is NaN, inf * 0 or the infinities disagree; otherwise an infinite term gives its
// infinity. A zero is +0. The result is a double that holds the rounded value exactly; a NaN is any NaN.
double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const Format& format);

// The same with the terms of a low-rank addition: the factors of the hidden row, and as many adjacent elements of b.
struct LowRankTerms {
  std::span<const LowRankFactor> factors;
  const void* b = nullptr;
  DType dtype = DType::f32;
};
double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const LowRankTerms& low_rank, const Format& format);

}  // namespace isologit::detail::exact
