// The gradients of the operators of the forward pass.

#include "isologit/forward_backward.h"

#include "capi/forward.hpp"
#include "isologit/forward_backward.hpp"

namespace isologit::detail::capi {
namespace {

Result<fw::RmsNormBackwardRequest> to_request(const isologit_rms_norm_backward_request& c) {
  const auto parts = together(to_tensor(c.x, "x"), to_vector(c.weight, "weight"), to_tensor(c.dy, "dy"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, weight, dy] = *parts;
  return fw::RmsNormBackwardRequest{x, weight, c.epsilon, c.one_plus_weight != 0, dy, to_output(c.dx), c.dweight};
}

Result<fw::LayerNormBackwardRequest> to_request(const isologit_layer_norm_backward_request& c) {
  const auto parts = together(to_tensor(c.x, "x"), to_vector(c.weight, "weight"), to_tensor(c.dy, "dy"),
                              to_dtype(c.dbias_dtype, "dbias_dtype"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, weight, dy, dbias_dtype] = *parts;
  return fw::LayerNormBackwardRequest{x, weight, c.epsilon, dy, to_output(c.dx), c.dweight, c.dbias, dbias_dtype};
}

Result<fw::CombineBackwardRequest> to_request(const isologit_combine_backward_request& c) {
  const auto read_combine = read(c.combine, "combine");
  if (!read_combine) return tl::unexpected(read_combine.error());
  const auto combine = capi::to_request(*read_combine);
  if (!combine) return tl::unexpected(combine.error());
  const auto dy = to_tensor(c.dy, "dy");
  if (!dy) return tl::unexpected(dy.error());
  return fw::CombineBackwardRequest{*combine, *dy, to_output(c.dx), c.dweights};
}

Result<fw::GateBackwardRequest> to_request(const isologit_gate_backward_request& c) {
  const auto parts =
      together(to_gate_kind(c.kind), to_tensor(c.gate, "gate"), to_optional_tensor(c.up, "up"), to_tensor(c.dy, "dy"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [kind, gate, up, dy] = *parts;
  return fw::GateBackwardRequest{kind, gate, up, c.alpha, c.limit, dy, to_output(c.dgate), to_output(c.dup)};
}

Result<fw::AttentionBackwardRequest> to_request(const isologit_attention_backward_request& c) {
  const auto read_attention = read(c.attention, "attention");
  if (!read_attention) return tl::unexpected(read_attention.error());
  const auto attention = capi::to_request(*read_attention);
  if (!attention) return tl::unexpected(attention.error());
  const auto dy = to_tensor(c.dy, "dy");
  if (!dy) return tl::unexpected(dy.error());
  return fw::AttentionBackwardRequest{*attention,           *dy,     to_output(c.dq), to_output(c.dkeys),
                                      to_output(c.dvalues), c.dsinks};
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" {

ISOLOGIT_OPERATOR(rms_norm_backward)
ISOLOGIT_OPERATOR(layer_norm_backward)
ISOLOGIT_OPERATOR(combine_backward)
ISOLOGIT_OPERATOR(gate_backward)
ISOLOGIT_OPERATOR(attention_backward)

}  // extern "C"
