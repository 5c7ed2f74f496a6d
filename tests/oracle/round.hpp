// The one rounding of the contract, in rational arithmetic: every result of the oracle passes through here.
#pragma once

#include <gmpxx.h>

#include "isologit/dtype.hpp"

namespace isologit::oracle {

// A binary format: bits of significand, and the exponents of its smallest and greatest normal numbers.
struct Format {
  int precision;
  int min_exponent;
  int max_exponent;
};

inline constexpr Format format_f32{24, -126, 127};
inline constexpr Format format_bf16{8, -126, 127};
inline constexpr Format format_f16{11, -14, 15};

constexpr Format format_of(DType dtype) {
  return dtype == DType::f32 ? format_f32 : dtype == DType::bf16 ? format_bf16 : format_f16;
}

// x rounded to nearest, ties to even: ±inf past the greatest number, subnormals kept, zero is +0. Exact as a double.
double round_to(const mpq_class& x, Format format);

// RN32.
inline float rn32(const mpq_class& x) { return static_cast<float>(round_to(x, format_f32)); }

}  // namespace isologit::oracle
