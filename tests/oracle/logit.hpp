// CONTRACT.md 1 and 2: logits as exact sums rounded once, and the transforms, each rounded once.
#pragma once

#include <gmpxx.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "isologit/head.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {

// RN of Σ_k h[k]·w[k] + b, every operand the exact value of a bf16, f16 or f32 element. The strides let columns be
// summed too. The result is a value of the type, held as a float.
struct Terms {
  const double* h;
  const double* w;
  std::size_t count;
  std::size_t h_stride = 1;
  std::size_t w_stride = 1;
};
float dot(const Terms& terms, double bias, DType result = DType::f32);

inline float logit(const double* h, const double* w, std::size_t count, double bias = 0.0, DType result = DType::f32) {
  return dot(Terms{h, w, count}, bias, result);
}

// A real number, an infinity or NaN, with the rules of CONTRACT.md 1 for sums and products.
class Extended {
 public:
  explicit Extended(double x) : finite_(std::isfinite(x) ? x : 0), special_(std::isfinite(x) ? 0 : x) {}
  Extended& operator+=(const Extended& other);
  Extended operator*(const Extended& other) const;
  float round(DType result) const;

 private:
  double ieee() const { return special_ != 0 ? special_ : sgn(finite_); }  // as a factor of what is special

  mpq_class finite_;
  double special_;
};

// The same with a low-rank addition: factors of a hidden row, of a [rank, count] and any finite scale; then with them
// and the row of b [rank] the logit.
std::vector<Extended> low_rank_factors(const double* h, const double* a, std::size_t rank, std::size_t count,
                                       double scale);
float low_rank_logit(const Terms& terms, double bias, const std::vector<Extended>& factors, const double* b,
                     DType result = DType::f32);

// Each transform of section 2 alone. The result is a value of the type.
float softcap(float z, float c, DType result = DType::f32);
float scale_multiply(float z, float s, DType result = DType::f32);
float scale_divide(float z, float d, DType result = DType::f32);
float temperature(float z, float t, DType result = DType::f32);

// Softcap and scale, in the order that the head says, then the temperature.
float transform(float z, const Transforms& transforms, float t = 1.0F);
// The f32 that the softcap is applied to: z, or with the scale first that of z.
float before_softcap(float z, const Transforms& transforms);

// The logit in logits_dtype: of the steps (the sum, softcap and scale, temperature) the last one is rounded to
// `result`, those before it to f32. A factor, divisor or temperature of 1 is no step.
float last_logit(const Terms& terms, double bias, const Transforms& transforms, float t, DType result);

}  // namespace isologit::oracle
