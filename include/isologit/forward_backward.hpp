// Gradients of the operators of forward.hpp at their stored operands, for a stored gradient dy of the result: those
// that are no operator themselves. Those of linear are linears of transposed operands, of rotary a rotary by the
// opposite angle, of residual sums and products. Definitions and bounds: CONTRACT.md 10.
//
// Shared by all: a gradient has the type and shape of what it is the gradient of. An output without data is not wanted.
// Sums run in f64 in an order that the shapes alone decide, so results do not depend on threads, and those of a row
// (dx, dgate, dup, dq; dkeys and dvalues of a sequence) not on what else is in the batch. Outputs may not overlap each
// other or an input.
#pragma once

#include "isologit/forward.hpp"

namespace isologit::forward {

struct RmsNormBackwardRequest {
  TensorView x;
  VectorView weight;  // [dim], or none: 1
  float epsilon = 0;
  bool one_plus_weight = false;
  TensorView dy;
  TensorOutput dx;
  void* dweight = nullptr;  // [dim]
};
Result<Report> rms_norm_backward(const RmsNormBackwardRequest& request, const Options& options = {});

struct LayerNormBackwardRequest {
  TensorView x;
  VectorView weight;  // [dim], or none: 1
  float epsilon = 0;
  TensorView dy;
  TensorOutput dx;
  void* dweight = nullptr;  // [dim]
  void* dbias = nullptr;    // [dim]
  DType dbias_dtype = DType::f32;
};
Result<Report> layer_norm_backward(const LayerNormBackwardRequest& request, const Options& options = {});

struct CombineBackwardRequest {
  CombineRequest combine;  // its y is not looked at
  TensorView dy;           // [tokens, 1, dim]
  TensorOutput dx;
  float* dweights = nullptr;  // [tokens, experts]
};
Result<Report> combine_backward(const CombineBackwardRequest& request, const Options& options = {});

// At the edges of clamped_swish's clamps the slope is that of inside.
struct GateBackwardRequest {
  GateKind kind = GateKind::silu;
  TensorView gate;
  TensorView up;
  float alpha = 1.702F;
  float limit = 7;
  TensorView dy;
  TensorOutput dgate;
  TensorOutput dup;
};
Result<Report> gate_backward(const GateBackwardRequest& request, const Options& options = {});

// Of keys and values without a block table; those of sequences may not overlap. Keys that no query sees, or that belong
// to no sequence, have a gradient of 0.
struct AttentionBackwardRequest {
  AttentionRequest attention;  // its y is not looked at
  TensorView dy;               // [tokens, heads, value_dim]
  TensorOutput dq;
  TensorOutput dkeys;       // as many tokens as keys
  TensorOutput dvalues;     // likewise
  float* dsinks = nullptr;  // [heads]
};
Result<Report> attention_backward(const AttentionBackwardRequest& request, const Options& options = {});

}  // namespace isologit::forward
