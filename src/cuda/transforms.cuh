// What follows the product: softcap, scale or divisor, and temperature, each one rounding of the exact function of the
// f32 number before it.
#pragma once

#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

enum : int { kNoFactor = 0, kScale = 1, kDivide = 2 };  // isologit_scale_kind's values
struct Transforms {
  float softcap;  // 0: none
  int factor_kind;
  float factor;
  bool factor_first;
  const float* temperatures;  // one for all rows, or one a row; or null. 0, of samples: the logits stay as they are
  bool one_temperature;

  bool are_any() const { return softcap != 0.0F || factor_kind != kNoFactor || temperatures != nullptr; }
  ISOLOGIT_DEVICE float temperature_of(std::int64_t row) const {
    if (temperatures == nullptr) return 1.0F;
    const float temperature = temperatures[one_temperature ? 0 : row];
    return temperature == 0.0F ? 1.0F : temperature;
  }
};

// c tanh(z / c) = c (-t / (2 + t)), t = e^(-2 |z| / c) - 1, of which nothing cancels. The quotient, t, the sum, the
// quotient and the product are within 2^-93 together. It is rational at 0 alone, so that a wide enough interval always
// shows it; this one leaves a number in 2^60 open.
ISOLOGIT_DEVICE float softcapped(float z, float cap) {
  const double size = fabs(static_cast<double>(z));
  const double c = static_cast<double>(cap);
  if (!(size > 0.0)) return z;  // NaN too
  Pair value = {c, -c * 0x1p-100};
  if (size < 40.0 * c) {  // else it is the cap less a 2^-114th of it or less
    const Pair t = exp_less_one(divide({-2.0 * size, 0.0}, {c, 0.0}));
    value = multiply(divide(negative(t), add({2.0, 0.0}, t)), {c, 0.0});
  }
  const double error = value.hi * 0x1p-90;
  const float low = round_sum(value.hi, value.lo - error);
  const float high = round_sum(value.hi, value.lo + error);
  if (low != high) return open_mark();
  return z < 0 ? -low : low;
}

ISOLOGIT_DEVICE float scaled(const Transforms& steps, float z) {
  return steps.factor_kind == kScale ? z * steps.factor : steps.factor_kind == kDivide ? z / steps.factor : z;
}
// What the softcap is given.
ISOLOGIT_DEVICE float before_softcap(const Transforms& steps, float z) {
  return steps.factor_first ? scaled(steps, z) : z;
}

// A logit from its product; or the mark of an open one.
ISOLOGIT_DEVICE float transformed(const Transforms& steps, float z, float temperature) {
  z = before_softcap(steps, z);
  if (steps.softcap != 0.0F) z = softcapped(z, steps.softcap);
  if (is_open(z)) return z;
  if (!steps.factor_first) z = scaled(steps, z);
  z = z / temperature;
  return z != z ? quiet_nan() : z + 0.0F;
}

}  // namespace isologit::detail::cuda
