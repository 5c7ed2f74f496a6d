#include "cuda/check_forward.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "cuda/checks.hpp"

namespace isologit::detail::cuda {
namespace {

std::int64_t heads_of(const isologit_tensor& x) { return x.heads == 0 ? 1 : x.heads; }

std::string shape_of(const isologit_tensor& x) {
  return "[" + number(x.tokens) + ", " + number(heads_of(x)) + ", " + number(x.dim) + "]";
}

std::string check_tensor(const std::string& name, const isologit_tensor& x) {
  if (auto wrong = check_dtype(name + ".dtype", x.dtype); !wrong.empty()) return wrong;
  if (x.tokens < 0 || x.heads < 0 || x.dim < 1 || x.dim > kMostDim) {
    return name + " is " + shape_of(x) + "; the CUDA kernels take 1 to " + number(kMostDim) +
           " elements a row, of no fewer than 0 tokens";
  }
  constexpr std::int64_t kMostBlocks = 0x7FFFFFFF;
  const std::int64_t pieces = (x.dim + kPiece - 1) / kPiece;
  if (x.tokens > kMostBlocks / pieces / heads_of(x)) {
    return name + " is " + shape_of(x) + "; the CUDA kernels take at most " + number(kMostBlocks / pieces) + " rows";
  }
  return x.tokens == 0 ? std::string() : check_address(name + ".data", x.data, element_size(x.dtype));
}

std::string check_like(const std::string& name, const isologit_tensor& operand, const std::string& of,
                       const isologit_tensor& x) {
  if (auto wrong = check_tensor(name, operand); !wrong.empty()) return wrong;
  if (operand.dtype == x.dtype && shape_of(operand) == shape_of(x)) return {};
  return name + " is " + shape_of(operand) + " of dtype " + number(operand.dtype) + ", but " + of + " is " +
         shape_of(x) + " of " + number(x.dtype);
}

std::string check_output(const isologit_tensor_output& y, const isologit_tensor& x) {
  return x.tokens == 0 ? std::string() : check_address("y.data", y.data, element_size(x.dtype));
}

std::string check_finite(const std::string& name, float x) {
  return std::isfinite(x) ? std::string() : name + " is " + std::to_string(x) + "; it must be finite";
}

Rows3 rows_of(std::int64_t token_stride, std::int64_t head_stride, const isologit_tensor& x) {
  return {token_stride, head_stride, static_cast<int>(heads_of(x))};
}
Activations activations_of(const isologit_tensor& x) {
  return {x.data, rows_of(x.token_stride, x.head_stride, x), x.dtype};
}
Results3 results_of(const isologit_tensor_output& y, const isologit_tensor& x) {
  return {y.data, rows_of(y.token_stride, y.head_stride, x), x.dtype};
}
std::int64_t count_of(const isologit_tensor& x) { return x.tokens * heads_of(x); }

Status* status_of(std::uint32_t* status) { return reinterpret_cast<Status*>(status); }

}  // namespace

std::string check_request(const isologit_cuda_rms_norm_request& r) {
  if (auto wrong = check_tensor("x", r.x); !wrong.empty()) return wrong;
  if (r.weight.data != nullptr || r.weight.size != 0) {
    if (auto wrong = check_dtype("weight.dtype", r.weight.dtype); !wrong.empty()) return wrong;
    if (r.weight.size != r.x.dim) {
      return "weight has " + number(r.weight.size) + " elements, but a row of x has " + number(r.x.dim);
    }
    if (auto wrong = check_address("weight.data", r.weight.data, element_size(r.weight.dtype)); !wrong.empty()) {
      return wrong;
    }
  }
  if (!(r.epsilon >= 0) || !std::isfinite(r.epsilon)) {
    return "epsilon is " + std::to_string(r.epsilon) + "; it must be finite and not below 0";
  }
  return check_output(r.y, r.x);
}

std::string check_request(const isologit_cuda_residual_request& r) {
  if (auto wrong = check_tensor("x", r.x); !wrong.empty()) return wrong;
  if (auto wrong = check_like("a", r.a, "x", r.x); !wrong.empty()) return wrong;
  if (r.b.data != nullptr) {
    if (auto wrong = check_like("b", r.b, "x", r.x); !wrong.empty()) return wrong;
  }
  if (auto wrong = check_finite("multiplier", r.multiplier); !wrong.empty()) return wrong;
  return check_output(r.y, r.x);
}

std::string check_request(const isologit_cuda_gate_request& r) {
  if (r.kind < ISOLOGIT_SILU || r.kind > ISOLOGIT_CLAMPED_SWISH) {
    return "kind is " + number(r.kind) + "; expected ISOLOGIT_SILU (0) to ISOLOGIT_CLAMPED_SWISH (3)";
  }
  if (auto wrong = check_tensor("gate", r.gate); !wrong.empty()) return wrong;
  if (r.up.data != nullptr) {
    if (auto wrong = check_like("up", r.up, "gate", r.gate); !wrong.empty()) return wrong;
  }
  const bool clamped = r.kind == ISOLOGIT_CLAMPED_SWISH;
  if (clamped && !is_positive(r.alpha)) {
    return "alpha is " + std::to_string(r.alpha) + "; it must be above 0 and finite";
  }
  if (clamped && !(r.limit > 0)) return "limit is " + std::to_string(r.limit) + "; it must be above 0";
  if (auto wrong = check_output(r.y, r.gate); !wrong.empty()) return wrong;
  const bool decided = r.kind == ISOLOGIT_RELU_SQUARED || (!clamped && r.gate.dtype != ISOLOGIT_F32);
  return r.status == nullptr && (decided || r.gate.tokens == 0) ? std::string() : check_address("status", r.status, 4);
}

std::string check_request(const isologit_cuda_rotary_request& r) {
  if (auto wrong = check_tensor("x", r.x); !wrong.empty()) return wrong;
  if (r.frequency_count < 1 || r.frequency_count > r.x.dim / 2) {
    return "frequency_count is " + number(r.frequency_count) + "; it must be from 1 to half of " + number(r.x.dim);
  }
  if (r.layout != ISOLOGIT_ROTARY_HALVES && r.layout != ISOLOGIT_ROTARY_PAIRS) {
    return "layout is " + number(r.layout) +
           ", which is neither ISOLOGIT_ROTARY_HALVES (0) nor ISOLOGIT_ROTARY_PAIRS (1)";
  }
  if (auto wrong = check_finite("factor", r.factor); !wrong.empty()) return wrong;
  if (r.x.tokens == 0) return {};
  if (auto wrong = check_address("positions", r.positions, 8); !wrong.empty()) return wrong;
  if (auto wrong = check_address("frequencies", r.frequencies, 4); !wrong.empty()) return wrong;
  if (auto wrong = check_output(r.y, r.x); !wrong.empty()) return wrong;
  return check_address("status", r.status, 4);
}

namespace {

std::string check_heads(const isologit_cuda_attention_request& r) {
  const isologit_tensor &q = r.q, &k = r.keys, &v = r.values;
  if (q.dtype == ISOLOGIT_F32) return "q.dtype is ISOLOGIT_F32 (2); the CUDA kernels of attention take bf16 and f16";
  if (k.dtype != q.dtype || v.dtype != q.dtype) {
    return "keys and values are of dtypes " + number(k.dtype) + " and " + number(v.dtype) + ", but q is of " +
           number(q.dtype);
  }
  if (k.dim != q.dim || k.tokens != v.tokens || heads_of(k) != heads_of(v) || heads_of(q) % heads_of(k) != 0) {
    return "q, keys and values are " + shape_of(q) + ", " + shape_of(k) + " and " + shape_of(v) +
           "; expected [tokens, heads, dim], [slots, kv_heads, dim] and [slots, kv_heads, value_dim], "
           "and heads to be a multiple of kv_heads";
  }
  if (k.dim <= kMostHead && v.dim <= kMostHead) return {};
  return "keys and values are of " + number(k.dim) + " and " + number(v.dim) +
         " elements a head; the CUDA kernels take up to " + number(kMostHead);
}

// A number of places that int counts.
std::string check_places(const isologit_cuda_attention_request& r) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  if (r.sequences < 0 || r.sequences > kMost / 2 / heads_of(r.keys) || (r.sequences == 0 && r.q.tokens > 0)) {
    return "sequences is " + number(r.sequences) + ", of " + number(r.q.tokens) + " tokens and " +
           number(heads_of(r.keys)) + " kv heads";
  }
  if (r.block_table == nullptr) return {};
  if (r.block_size >= 1 && r.block_size <= kMost && r.blocks_per_sequence >= 0 &&
      r.blocks_per_sequence <= kMost / r.block_size) {
    return {};
  }
  return "a sequence has " + number(r.blocks_per_sequence) + " blocks of " + number(r.block_size) +
         "; expected some of at least 1, and at most " + number(kMost) + " slots";
}

}  // namespace

std::string check_attention(const isologit_cuda_attention_request& r) {
  for (const auto& [name, x] : {std::pair{"q", r.q}, {"keys", r.keys}, {"values", r.values}}) {
    if (auto wrong = check_tensor(name, x); !wrong.empty()) return wrong;
  }
  if (auto wrong = check_heads(r); !wrong.empty()) return wrong;
  if (auto wrong = check_places(r); !wrong.empty()) return wrong;
  if (!is_positive(r.scale)) return "scale is " + std::to_string(r.scale) + "; it must be above 0 and finite";
  if (!(r.softcap >= 0) || std::isinf(r.softcap)) {
    return "softcap is " + std::to_string(r.softcap) + "; it must be 0 or above, and finite";
  }
  return r.window >= 0 ? std::string() : "window is " + number(r.window) + "; it must be at least 0";
}

std::string check_request(const isologit_cuda_attention_request& r) {
  if (auto wrong = check_attention(r); !wrong.empty()) return wrong;
  if (r.q.tokens == 0) return {};
  if (auto wrong = check_address("query_starts", r.query_starts, 8); !wrong.empty()) return wrong;
  if (auto wrong = check_address("key_counts", r.key_counts, 8); !wrong.empty()) return wrong;
  if (r.block_table != nullptr) {
    if (auto wrong = check_address("block_table", r.block_table, 4); !wrong.empty()) return wrong;
  } else if (auto wrong = check_address("first_keys", r.first_keys, 8); !wrong.empty()) {
    return wrong;
  }
  if (r.sinks != nullptr) {
    if (auto wrong = check_address("sinks", r.sinks, 4); !wrong.empty()) return wrong;
  }
  if (auto wrong = check_output(r.y, r.q); !wrong.empty()) return wrong;
  if (auto wrong = check_address("status", r.status, 4); !wrong.empty()) return wrong;
  const std::int64_t need = attention_plan(kernels_request(r)).bytes;
  return need == 0 ? std::string() : check_workspace(r, need, "isologit_cuda_attention_workspace");
}

RmsNormRequest kernels_request(const isologit_cuda_rms_norm_request& r) {
  return {activations_of(r.x),    r.weight.data,        r.weight.dtype, r.epsilon,
          r.one_plus_weight != 0, results_of(r.y, r.x), count_of(r.x),  static_cast<int>(r.x.dim)};
}

ResidualRequest kernels_request(const isologit_cuda_residual_request& r) {
  return {activations_of(r.x),  activations_of(r.a), activations_of(r.b),      r.multiplier,
          results_of(r.y, r.x), count_of(r.x),       static_cast<int>(r.x.dim)};
}

GateRequest kernels_request(const isologit_cuda_gate_request& r) {
  return {r.kind,
          activations_of(r.gate),
          activations_of(r.up),
          r.alpha,
          r.limit,
          results_of(r.y, r.gate),
          status_of(r.status),
          count_of(r.gate),
          static_cast<int>(r.gate.dim)};
}

RotaryRequest kernels_request(const isologit_cuda_rotary_request& r) {
  return {activations_of(r.x),
          r.positions,
          r.frequencies,
          static_cast<int>(r.frequency_count),
          r.layout == ISOLOGIT_ROTARY_PAIRS,
          r.factor,
          results_of(r.y, r.x),
          status_of(r.status),
          count_of(r.x),
          static_cast<int>(r.x.dim)};
}

namespace {

// Whether every key's row is whole pieces of 16 bytes at multiples of 16.
bool is_in_pieces(const KeyRows& x) {
  const bool is_aligned = x.data != nullptr && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
  return is_aligned && x.token_stride % 8 == 0 && x.head_stride % 8 == 0 && x.block_stride % 8 == 0 && x.dim % 8 == 0;
}

KeyRows keys_of(const isologit_tensor& x, std::int64_t block_stride) {
  return {x.data, x.token_stride, x.head_stride, block_stride, static_cast<int>(x.dim)};
}

}  // namespace

AttentionRequest kernels_request(const isologit_cuda_attention_request& r) {
  const std::int64_t kv_heads = heads_of(r.keys);
  AttentionRequest to = {};
  to.q = activations_of(r.q);
  to.tokens = r.q.tokens;
  to.dim = static_cast<int>(r.q.dim);
  to.kv_heads = static_cast<int>(kv_heads);
  to.group = static_cast<int>(heads_of(r.q) / kv_heads);
  to.keys = keys_of(r.keys, r.block_table != nullptr ? r.key_block_stride : 0);
  to.values = keys_of(r.values, r.block_table != nullptr ? r.value_block_stride : 0);
  to.key_tokens = r.keys.tokens;
  to.sequences = static_cast<int>(r.sequences);
  to.query_starts = r.query_starts;
  to.key_counts = r.key_counts;
  to.first_keys = r.first_keys;
  to.block_table = r.block_table;
  to.blocks_per_sequence = r.blocks_per_sequence;
  to.block_size = static_cast<int>(r.block_size);
  to.copies = is_in_pieces(to.keys) && is_in_pieces(to.values);
  to.scale = r.scale;
  to.softcap = r.softcap;
  to.causal = r.not_causal == 0;
  to.window = std::min(r.window, std::int64_t{1} << 32);
  to.sinks = r.sinks;
  to.y = results_of(r.y, r.q);
  to.status = status_of(r.status);
  to.splits = attention_plan(to).splits;
  to.partials = r.workspace;
  return to;
}

}  // namespace isologit::detail::cuda
