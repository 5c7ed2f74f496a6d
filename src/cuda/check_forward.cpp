#include "cuda/check_forward.hpp"

#include <cmath>
#include <cstdint>

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

}  // namespace isologit::detail::cuda
