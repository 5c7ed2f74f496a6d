// Gates. Those with an exponential are P / (1 + e^-x), P = (u + shift) g and x = g, alpha g or a polynomial of g: in
// f64, then in pairs of doubles, and where x is far from 0 or next to it, so that the result is P or P / 2 but for next
// to nothing, by the sign of that. relu_squared is a product of three numbers, which two doubles hold. What pairs leave
// open, 2^-92 of itself, is no result of two bf16 or two f16 numbers but in clamped_swish (found by looking at all of
// them: tests/cuda/gate_test.cpp), and of others one in 2^60. Predicted: as long as reading and writing for rows
// enough, some 60 f64 operations an element; measured: not yet.
#pragma once

#include "cuda/activations.cuh"
#include "cuda/exponential.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

enum : int { kSilu = 0, kGeluTanh = 1, kReluSquared = 2, kClampedSwish = 3 };  // as in isologit_gate_request

struct GateRequest {
  int kind;
  Activations gate, up;  // up's data may be null
  float alpha, limit;    // of clamped_swish
  Results3 y;
  Status* status;  // or null, where nothing can be open
  std::int64_t count;
  int dim;

  template <class Block>
  ISOLOGIT_DEVICE void one(Block& block, int row, int i) const;
};

struct GateNumbers {
  int kind;
  double alpha, shift;
  int type;
};

// g and u after clamping.
ISOLOGIT_DEVICE Pair gate_exponent(const GateNumbers& n, double g) {
  if (n.kind == kSilu) return {g, 0.0};
  if (n.kind == kClampedSwish) return {n.alpha * g, 0.0};                                // exact
  const Pair cube = multiply(product_of(g * g, g), {0x1.6e4e26p-5, 0.0});                // 0.044715 in f32
  return multiply(add({g, 0.0}, cube), {0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54});  // 2 sqrt(2 / pi)
}

struct NearGate {
  double value, error;
};
// In f64. x is within |x| 2^-50 of itself, e^-x so within |x| 2^-50 and 2^-50, 1 + e^-x no worse; the rest is six
// roundings. Where x is past 700, e^-x is below half a last place of 1; where it is before -700, the value is below
// 2^-700 and the bound is the value.
ISOLOGIT_DEVICE NearGate gate_near(const GateNumbers& n, double g, double u) {
  double x = n.kind == kClampedSwish ? n.alpha * g : g;
  if (n.kind == kGeluTanh) x = 0x1.9884533d43651p+0 * (g + 0x1.6e4e26p-5 * (g * g * g));
  const double size = fabs(x);
  const double held = size < 700.0 ? size : 700.0;
  const double value = (u + n.shift) * g / (1.0 + exponential_near(x < 0 ? held : -held));
  return {value, fabs(value) * (x > -700.0 ? 0x1p-49 + held * 0x1p-49 : 1.0)};
}

// In pairs, or the mark of an open one. Of g not 0 and P not 0, both finite. x is within 2^-102 of itself, E = e^-|x|
// within 2^-98 and |x| 2^-102, P within 2^-104; three operations.
ISOLOGIT_DEVICE float settled_gate(const GateNumbers& n, double g, double u) {
  const Pair sum = sum_of(u, n.shift);
  const Pair most = product_of(sum.hi, g);  // P is this and `rest`, exactly
  const double rest = sum.lo * g;
  const Pair x = gate_exponent(n, g);
  const double size = fabs(x.hi);
  if (x.hi < -300.0) return 0.0F;  // |P| is below 2^258, and 2^258 e^-300 is far below half of any number
  if (size <= 300.0) {
    const Pair product = add(most, {rest, 0.0});
    const Pair e = value_of(exponential(x.hi > 0 ? negative(x) : x));
    const Pair value = divide(x.hi > 0 ? product : multiply(product, e), add({1.0, 0.0}, e));
    const double error = fabs(value.hi) * (0x1p-95 + size * 0x1p-101);
    const float low = round_sum(value.hi, value.lo - error, n.type);
    if (low == round_sum(value.hi, value.lo + error, n.type)) return low;
  }
  const double sign = most.hi > 0 ? 1.0 : -1.0;
  if (size < 0x1p-30) {  // P / 2 + P x / 4, and 2^-60 of the latter
    const Pair half = scaled(most, 0.5);
    const double more = most.hi * x.hi * 0.25;
    const float one = round_sum(half, {0.5 * rest, more * (1.0 - 0x1p-40)}, n.type);
    return one == round_sum(half, {0.5 * rest, more * (1.0 + 0x1p-40)}, n.type) ? one : open_mark();
  }
  if (x.hi > 28.0) {
    // P - P e / (1 + e), e below 2^-40. Past 300 what is taken away is below 2^-432 P; P and every boundary between two
    // results are multiples of 2^-298, and P past 2^129 is infinite in any type: its size does not matter.
    const double e = fabs(most.hi) * value_of(exponential({size < 300.0 ? -size : -300.0, 0.0})).hi;
    const double least = size <= 300.0 ? e * (1.0 - 0x1p-38) : 0x1p-1000;
    const double greatest = size <= 300.0 ? e * (1.0 + 0x1p-38) : 0x1p-310;
    const float one = round_sum(most, {rest, -sign * least}, n.type);
    return one == round_sum(most, {rest, -sign * greatest}, n.type) ? one : open_mark();
  }
  return open_mark();
}

// Limits at the infinities; at g = 0 the gate is 0.
ISOLOGIT_DEVICE float special_gate(const GateNumbers& n, double g, double u) {
  const bool squared = n.kind == kReluSquared;
  const bool closed = g < 0 && (squared || !is_finite(g));
  const double open = squared && g > 0 ? g * g : g;
  return round_once((closed ? 0.0 : open) * (u + n.shift), n.type);
}

// Or the mark of an open one.
ISOLOGIT_DEVICE float gated(const GateNumbers& n, double g, double u) {
  if (!is_finite(g) || !is_finite(u) || g == 0) return special_gate(n, g, u);
  if (n.kind == kReluSquared) {
    if (g < 0) return 0.0F;
    const Pair product = product_of(g * g, u);
    return round_sum(product.hi, product.lo, n.type);
  }
  if (u + n.shift == 0) return 0.0F;
  const NearGate near = gate_near(n, g, u);
  const Ends ends = ends_of(near.value, near.error, n.type);
  return ends.agree() ? ends.low : settled_gate(n, g, u);
}

// NaN stays.
ISOLOGIT_DEVICE double held_within(double x, double low, double high) { return x > high ? high : x < low ? low : x; }

template <class Block>
ISOLOGIT_DEVICE void GateRequest::one(Block& block, int row, int i) const {
  double g = gate.at(gate.rows.offset_of(row) + i);
  const bool has_up = up.data != nullptr;
  double u = has_up ? up.at(up.rows.offset_of(row) + i) : 1.0;
  if (kind == kClampedSwish) {
    const auto most = static_cast<double>(limit);
    g = g > most ? most : g;
    if (has_up) u = held_within(u, -most, most);
  }
  const GateNumbers n = {kind, static_cast<double>(alpha), kind == kClampedSwish && has_up ? 1.0 : 0.0, y.type};
  const float found = gated(n, g, u);
  if (is_open(found) && status != nullptr) block.count(status->open);
  y.store(y.rows.offset_of(row) + i, found);  // an open one as NaN
}

template <class Launcher>
void launch_gate(Launcher& launcher, const GateRequest& r) {
  launch_each(launcher, r, r.count);
}

}  // namespace isologit::detail::cuda
