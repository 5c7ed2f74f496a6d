// The gradients of the operators of the forward pass.

#include "isologit/forward_backward.h"

#include "capi/forward.hpp"
#include "isologit/forward_backward.hpp"

namespace isologit::detail::capi {
namespace {

Result<fw::RmsNormBackwardRequest> to_request(const isologit_rms_norm_backward_request& c) {
  const auto x = to_tensor(c.x, "x");
  if (!x) return tl::unexpected(x.error());
  const auto weight = to_vector(c.weight, "weight");
  if (!weight) return tl::unexpected(weight.error());
  const auto dy = to_tensor(c.dy, "dy");
  if (!dy) return tl::unexpected(dy.error());
  return fw::RmsNormBackwardRequest{*x, *weight, c.epsilon, c.one_plus_weight != 0, *dy, to_output(c.dx), c.dweight};
}

Result<fw::LayerNormBackwardRequest> to_request(const isologit_layer_norm_backward_request& c) {
  const auto x = to_tensor(c.x, "x");
  if (!x) return tl::unexpected(x.error());
  const auto weight = to_vector(c.weight, "weight");
  if (!weight) return tl::unexpected(weight.error());
  const auto dy = to_tensor(c.dy, "dy");
  if (!dy) return tl::unexpected(dy.error());
  const auto dbias_dtype = to_dtype(c.dbias_dtype, "dbias_dtype");
  if (!dbias_dtype) return tl::unexpected(dbias_dtype.error());
  return fw::LayerNormBackwardRequest{*x, *weight, c.epsilon, *dy, to_output(c.dx), c.dweight, c.dbias, *dbias_dtype};
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
  const auto kind = to_gate_kind(c.kind);
  if (!kind) return tl::unexpected(kind.error());
  const auto gate = to_tensor(c.gate, "gate");
  if (!gate) return tl::unexpected(gate.error());
  const auto up = to_optional_tensor(c.up, "up");
  if (!up) return tl::unexpected(up.error());
  const auto dy = to_tensor(c.dy, "dy");
  if (!dy) return tl::unexpected(dy.error());
  return fw::GateBackwardRequest{*kind, *gate, *up, c.alpha, c.limit, *dy, to_output(c.dgate), to_output(c.dup)};
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

#define ISOLOGIT_GRADIENT(name)                                                                                      \
  isologit_status isologit_##name(const isologit_##name##_request* request, const isologit_forward_options* options, \
                                  isologit_forward_report* report, char* message, size_t message_size) {             \
    using namespace isologit::detail::capi;                                                                          \
    const auto convert = [](const isologit_##name##_request& c) { return to_request(c); };                           \
    return run(request, options, report, message, message_size, convert, isologit::forward::name);                   \
  }

ISOLOGIT_GRADIENT(rms_norm_backward)
ISOLOGIT_GRADIENT(layer_norm_backward)
ISOLOGIT_GRADIENT(combine_backward)
ISOLOGIT_GRADIENT(gate_backward)
ISOLOGIT_GRADIENT(attention_backward)

}  // extern "C"
