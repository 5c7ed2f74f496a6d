// The operators of the forward pass.

#include "capi/forward.hpp"

namespace isologit::detail::capi {
namespace {

static_assert(ISOLOGIT_SILU == value(fw::GateKind::silu) && ISOLOGIT_GELU_TANH == value(fw::GateKind::gelu_tanh) &&
              ISOLOGIT_RELU_SQUARED == value(fw::GateKind::relu_squared) &&
              ISOLOGIT_CLAMPED_SWISH == value(fw::GateKind::clamped_swish));
static_assert(ISOLOGIT_ROTARY_HALVES == value(fw::RotaryLayout::halves) &&
              ISOLOGIT_ROTARY_PAIRS == value(fw::RotaryLayout::pairs));

Result<fw::KeyValues> to_keys(const isologit_attention_request& c) {
  const auto parts = together(to_tensor(c.keys, "keys"), to_tensor(c.values, "values"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [keys, values] = *parts;
  fw::KeyValues kv{keys, values, {}, {}, c.blocks_per_sequence, c.block_size, c.key_block_stride, c.value_block_stride};
  if (c.block_table == nullptr) {
    const auto first_keys = to_list(c.first_keys, c.sequences, "first_keys");
    if (!first_keys) return tl::unexpected(first_keys.error());
    kv.first_keys = *first_keys;
    return kv;
  }
  if (c.blocks_per_sequence < 0 || c.blocks_per_sequence > kMostSequences / std::max<std::int64_t>(c.sequences, 1)) {
    return invalid(base::concat("blocks_per_sequence: ", c.blocks_per_sequence, " for ", c.sequences, " sequences"));
  }
  const auto table = to_list(c.block_table, c.sequences * c.blocks_per_sequence, "block_table");
  if (!table) return tl::unexpected(table.error());
  kv.block_table = *table;
  return kv;
}

}  // namespace

Result<fw::GateKind> to_gate_kind(std::int32_t kind) {
  if (kind >= ISOLOGIT_SILU && kind <= ISOLOGIT_CLAMPED_SWISH) return static_cast<fw::GateKind>(kind);
  return invalid(
      base::concat("kind: ", kind, "; expected ", value(ISOLOGIT_SILU), " to ", value(ISOLOGIT_CLAMPED_SWISH)));
}

Result<fw::AttentionRequest> to_request(const isologit_attention_request& c) {
  const auto q = to_tensor(c.q, "q");
  if (!q) return tl::unexpected(q.error());
  const auto key_counts = to_list(c.key_counts, c.sequences, "key_counts");
  if (!key_counts) return tl::unexpected(key_counts.error());
  const auto query_starts = to_list(c.query_starts, c.sequences + 1, "query_starts");
  if (!query_starts) return tl::unexpected(query_starts.error());
  const auto kv = to_keys(c);
  if (!kv) return tl::unexpected(kv.error());
  fw::AttentionRequest request{*q,       *kv, *query_starts, *key_counts, c.scale, c.softcap, c.not_causal == 0,
                               c.window, {},  to_output(c.y)};
  if (c.sinks != nullptr) {
    const auto sinks = to_list(c.sinks, q->heads, "sinks");
    if (!sinks) return tl::unexpected(sinks.error());
    request.sinks = *sinks;
  }
  return request;
}

Result<fw::CombineRequest> to_request(const isologit_combine_request& c) {
  const auto x = to_tensor(c.x, "x");
  if (!x) return tl::unexpected(x.error());
  if (x->tokens < 0 || x->heads < 1 || x->tokens > kMostSequences / x->heads) {
    return invalid(base::concat("x: ", x->tokens, " tokens of ", x->heads, " experts"));
  }
  const auto weights = to_list(c.weights, x->tokens * x->heads, "weights");
  if (!weights) return tl::unexpected(weights.error());
  return fw::CombineRequest{*x, *weights, to_output(c.y)};
}

namespace {

Result<fw::LinearRequest> to_request(const isologit_linear_request& c) {
  const auto parts = together(to_view(c.x, "x"), to_view(c.weight, "weight"), to_vector(c.bias, "bias"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, weight, bias] = *parts;
  return fw::LinearRequest{x, weight, bias, c.y, c.y_row_stride};
}

Result<fw::RmsNormRequest> to_request(const isologit_rms_norm_request& c) {
  const auto parts = together(to_tensor(c.x, "x"), to_vector(c.weight, "weight"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, weight] = *parts;
  return fw::RmsNormRequest{x, weight, c.epsilon, c.one_plus_weight != 0, to_output(c.y)};
}

Result<fw::LayerNormRequest> to_request(const isologit_layer_norm_request& c) {
  const auto parts = together(to_tensor(c.x, "x"), to_vector(c.weight, "weight"), to_vector(c.bias, "bias"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, weight, bias] = *parts;
  return fw::LayerNormRequest{x, weight, bias, c.epsilon, to_output(c.y)};
}

Result<fw::ResidualRequest> to_request(const isologit_residual_request& c) {
  const auto parts = together(to_tensor(c.x, "x"), to_tensor(c.a, "a"), to_optional_tensor(c.b, "b"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, a, b] = *parts;
  return fw::ResidualRequest{x, a, b, c.multiplier, to_output(c.y)};
}

Result<fw::GateRequest> to_request(const isologit_gate_request& c) {
  const auto parts = together(to_gate_kind(c.kind), to_tensor(c.gate, "gate"), to_optional_tensor(c.up, "up"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [kind, gate, up] = *parts;
  return fw::GateRequest{kind, gate, up, c.alpha, c.limit, to_output(c.y)};
}

Result<fw::RotaryRequest> to_request(const isologit_rotary_request& c) {
  if (c.layout != ISOLOGIT_ROTARY_HALVES && c.layout != ISOLOGIT_ROTARY_PAIRS) {
    return invalid(base::concat("layout: ", c.layout, "; expected ", value(ISOLOGIT_ROTARY_HALVES), " (halves) or ",
                                value(ISOLOGIT_ROTARY_PAIRS), " (pairs)"));
  }
  const auto parts = together(to_tensor(c.x, "x"), to_list(c.positions, c.x.tokens, "positions"),
                              to_list(c.frequencies, c.frequency_count, "frequencies"));
  if (!parts) return tl::unexpected(parts.error());
  const auto& [x, positions, frequencies] = *parts;
  return fw::RotaryRequest{x,        positions,     frequencies, static_cast<fw::RotaryLayout>(c.layout),
                           c.factor, to_output(c.y)};
}

Result<void> write_frequencies(const isologit_rotary_frequencies_request& c) {
  if (c.frequencies == nullptr) return invalid("frequencies: NULL");
  const auto scaled = [&]() -> Result<std::vector<float>> {
    switch (c.scaling) {
      case ISOLOGIT_ROTARY_LINEAR: return fw::rotary_frequencies(c.theta, c.dim, c.factor == 0 ? 1 : c.factor);
      case ISOLOGIT_ROTARY_LLAMA3:
        return fw::rotary_frequencies(
            c.theta, c.dim,
            fw::Llama3Scaling{c.factor, c.low_freq_factor, c.high_freq_factor, c.original_max_position});
      case ISOLOGIT_ROTARY_YARN:
        return fw::rotary_frequencies(
            c.theta, c.dim,
            fw::YarnScaling{c.factor, c.beta_fast, c.beta_slow, c.original_max_position, c.not_truncated == 0});
      default: break;
    }
    return invalid(base::concat("scaling: ", c.scaling, "; expected ", value(ISOLOGIT_ROTARY_LINEAR), " (linear), ",
                                value(ISOLOGIT_ROTARY_LLAMA3), " (llama3) or ", value(ISOLOGIT_ROTARY_YARN),
                                " (yarn)"));
  };
  const auto found = scaled();
  if (!found) return tl::unexpected(found.error());
  std::copy(found->begin(), found->end(), c.frequencies);
  return {};
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" {

ISOLOGIT_OPERATOR(linear)
ISOLOGIT_OPERATOR(rms_norm)
ISOLOGIT_OPERATOR(layer_norm)
ISOLOGIT_OPERATOR(residual)
ISOLOGIT_OPERATOR(combine)
ISOLOGIT_OPERATOR(gate)
ISOLOGIT_OPERATOR(rotary)
ISOLOGIT_OPERATOR(attention)

isologit_status isologit_rotary_frequencies(const isologit_rotary_frequencies_request* request, char* message,
                                            size_t message_size) {
  using namespace isologit::detail::capi;
  return guarded(message, message_size, [&]() -> isologit::Result<void> {
    const auto c = read(request, "request");
    if (!c) return tl::unexpected(c.error());
    return write_frequencies(*c);
  });
}

}  // extern "C"
