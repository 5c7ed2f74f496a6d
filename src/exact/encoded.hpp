// Encoded weights (isologit/encoded_weight.hpp) as the numbers they stand for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exact/rounding.hpp"
#include "isologit/head.hpp"

namespace isologit::detail::exact {

// Bytes of one element.
constexpr std::size_t encoded_size(Encoding encoding) { return encoding == Encoding::f64 ? 8 : 1; }

// Row `row` of a head's encoded weight, whose elements are all f64 numbers: an f8 value has 4 significant bits and a
// scale 24.
void decode_row(const Head& head, std::int64_t row, double* to);

// The logit of CONTRACT.md 1 for any f64 weights, as exact/logit.hpp has it for elements. Slow.
double wide_logit(const void* hidden, DType hidden_dtype, const double* weight, std::int64_t size, float bias,
                  const Format& format);

}  // namespace isologit::detail::exact
