// Encoded weights (isologit/encoded_weight.hpp) as the numbers they stand for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exact/logit.hpp"
#include "exact/rounding.hpp"
#include "isologit/head.hpp"

namespace isologit::detail::exact {

// Bytes of one element.
constexpr std::size_t encoded_size(Encoding encoding) { return encoding == Encoding::f64 ? 8 : 1; }

// Elements [column, column + count) of row `row` of a head's encoded weight. All are f64 numbers: an f8 value has 4
// significant bits and a scale 24.
void decode(const Head& head, std::int64_t row, std::int64_t column, std::int64_t count, double* to);
inline void decode_row(const Head& head, std::int64_t row, double* to) { decode(head, row, 0, head.weight.cols, to); }

// Of how many f32 numbers an element is the sum, where these reach: 1 of bf16 and of f8 with narrow scales.
std::int64_t parts_of(const EncodedWeight& weight);
// Writes the parts of a number to to[0], to[stride], ... False where it is not their sum.
bool split(double number, std::int64_t parts, float* to, std::int64_t stride);

// The logit of CONTRACT.md 1 for any f64 weights, as exact/logit.hpp has it for elements. Slow.
double wide_logit(const void* hidden, DType hidden_dtype, const double* weight, std::int64_t size, float bias,
                  const LowRankTerms& low_rank, const Format& format);

}  // namespace isologit::detail::exact
