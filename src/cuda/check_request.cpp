#include "cuda/check_request.hpp"

#include <cmath>
#include <cstdint>

#include "cuda/checks.hpp"

namespace isologit::detail::cuda {
namespace {

std::string check_matrix(const std::string& name, const isologit_matrix& matrix) {
  if (auto wrong = check_dtype(name + ".dtype", matrix.dtype); !wrong.empty()) return wrong;
  if (matrix.rows < 0 || matrix.cols < 1) {
    return name + " is [" + number(matrix.rows) + ", " + number(matrix.cols) +
           "]; it needs columns, and no fewer than 0 rows";
  }
  if (matrix.rows == 0) return {};
  return check_address(name + ".data", matrix.data, element_size(matrix.dtype));
}

std::string check_bias(const isologit_vector& bias, std::int64_t weight_rows) {
  if (bias.data == nullptr && bias.size == 0) return {};
  if (auto wrong = check_dtype("bias.dtype", bias.dtype); !wrong.empty()) return wrong;
  if (bias.size != weight_rows) {
    return "bias has " + number(bias.size) + " elements, but weight has " + number(weight_rows) + " rows";
  }
  return check_address("bias.data", bias.data, element_size(bias.dtype));
}

std::string check_vocab(std::int64_t vocab_size) {
  // As many tiles of rows as a grid may have in its second direction.
  constexpr std::int64_t kMostVocab = std::int64_t{65535} * 64;
  if (vocab_size <= kMostVocab) return {};
  return "vocab_size is " + number(vocab_size) + "; the CUDA kernels take at most " + number(kMostVocab);
}

template <class Request>
std::string check_arithmetic(const Request& request) {
  if (auto wrong = check_arithmetic_value(request.arithmetic); !wrong.empty()) return wrong;
  if (!is_fast(request.arithmetic)) return {};
  const std::int32_t type = request.weight.dtype;
  if (type != ISOLOGIT_F32 && type == request.hidden.dtype) return {};
  return "hidden.dtype is " + number(request.hidden.dtype) + " and weight.dtype is " + number(type) +
         "; fast arithmetic takes both in ISOLOGIT_BF16 (0) or both in ISOLOGIT_F16 (1)";
}

// What all requests have.
template <class Request>
std::string check_operands(const Request& request) {
  if (auto wrong = check_matrix("hidden", request.hidden); !wrong.empty()) return wrong;
  if (auto wrong = check_hidden(request.hidden.rows, request.hidden.cols, request.hidden.dtype); !wrong.empty())
    return wrong;
  if (auto wrong = check_matrix("weight", request.weight); !wrong.empty()) return wrong;
  if (request.weight.cols != request.hidden.cols) {
    return "weight has " + number(request.weight.cols) + " columns, but hidden has " + number(request.hidden.cols);
  }
  if (request.vocab_size < 1 || request.vocab_size > request.weight.rows) {
    return "vocab_size is " + number(request.vocab_size) + "; it must be from 1 to weight.rows, " +
           number(request.weight.rows);
  }
  if (auto wrong = check_vocab(request.vocab_size); !wrong.empty()) return wrong;
  if (auto wrong = check_arithmetic(request); !wrong.empty()) return wrong;
  return check_bias(request.bias, request.weight.rows);
}

// A number for all rows or one a row, of so many bytes; `name` is what its count is called after.
std::string check_per_row(const std::string& name, const std::string& plural, const void* data, std::int64_t count,
                          std::int64_t rows, bool needed, std::int64_t bytes) {
  if ((count != 0 || needed) && count != 1 && count != rows) {
    return name + "_count is " + number(count) + "; it must be " + (needed ? "" : "0, ") + "1 or the number of rows, " +
           number(rows);
  }
  return count == 0 ? std::string() : check_address(plural, data, bytes);
}

std::string check_temperatures(const float* temperatures, std::int64_t count, std::int64_t rows) {
  return check_per_row("temperature", "temperatures", temperatures, count, rows, false, 4);
}

template <class Request>
std::string check_numbers(const Request& request) {
  if (request.has_softcap != 0 && !is_positive(request.softcap)) {
    return "softcap is " + std::to_string(request.softcap) + "; it must be above 0 and finite";
  }
  const bool multiplies = request.scale_kind == ISOLOGIT_SCALE_MULTIPLY;
  if (!multiplies && request.scale_kind != ISOLOGIT_SCALE_NONE && request.scale_kind != ISOLOGIT_SCALE_DIVIDE) {
    return "scale_kind is " + number(request.scale_kind) + ", which is none of ISOLOGIT_SCALE_NONE (0), " +
           "ISOLOGIT_SCALE_MULTIPLY (1) and ISOLOGIT_SCALE_DIVIDE (2)";
  }
  if (multiplies && (request.scale == 0 || !std::isfinite(request.scale))) {
    return "scale is " + std::to_string(request.scale) + "; it must be finite and not 0";
  }
  if (request.scale_kind == ISOLOGIT_SCALE_DIVIDE && !is_positive(request.scale)) {
    return "scale is " + std::to_string(request.scale) + "; a divisor must be above 0 and finite";
  }
  if (request.transform_order != ISOLOGIT_SOFTCAP_FIRST && request.transform_order != ISOLOGIT_SCALE_FIRST) {
    return "transform_order is " + number(request.transform_order) +
           ", which is neither ISOLOGIT_SOFTCAP_FIRST (0) nor ISOLOGIT_SCALE_FIRST (1)";
  }
  return check_temperatures(request.temperatures, request.temperature_count, request.hidden.rows);
}

std::string check_ids_per_row(std::int64_t ids_per_row) {
  if (ids_per_row >= 0 && ids_per_row <= kMostIds) return {};
  return "ids_per_row is " + number(ids_per_row) + "; the CUDA kernels take 0 to " + number(kMostIds);
}

std::string check_ids(const std::int64_t* token_ids, std::int64_t ids_per_row) {
  if (auto wrong = check_ids_per_row(ids_per_row); !wrong.empty()) return wrong;
  if ((token_ids == nullptr) == (ids_per_row == 0)) return {};
  return "token_ids is " + std::string(token_ids == nullptr ? "NULL" : "given") + " and ids_per_row is " +
         number(ids_per_row) + "; give both or neither";
}

std::string check_gradient(const std::string& name, const isologit_cuda_gradient& gradient, std::int64_t cols) {
  if (gradient.data == nullptr) return {};
  if (auto wrong = check_dtype(name + ".dtype", gradient.dtype); !wrong.empty()) return wrong;
  if (gradient.row_stride < cols) {
    return name + ".row_stride is " + number(gradient.row_stride) + ", less than the " + number(cols) + " columns";
  }
  return check_address(name + ".data", gradient.data, element_size(gradient.dtype));
}

Operand operand_of(const isologit_matrix& x) { return {x.data, x.row_stride, x.dtype}; }

template <class Request>
HeadOperands operands_of(const Request& r) {
  return {operand_of(r.hidden),
          operand_of(r.weight),
          r.bias.data,
          r.bias.dtype,
          r.hidden.rows,
          static_cast<int>(r.vocab_size),
          static_cast<int>(r.hidden.cols),
          asks_for_wgmma(r.arithmetic)};
}

template <class Request>
Transforms transforms_of(const Request& r) {
  return {r.has_softcap != 0 ? r.softcap : 0.0F,
          r.scale_kind,
          r.scale,
          r.transform_order == ISOLOGIT_SCALE_FIRST,
          r.temperature_count == 0 ? nullptr : r.temperatures,
          r.temperature_count == 1};
}

template <class T>
PerRow<T> per_row(const T* data, std::int64_t count) {
  return {count == 0 ? nullptr : data, count == 1};
}

template <class Request>
Support support_of(const Request& r) {
  return {r.mask, r.mask_row_stride, {r.kept.offsets, r.kept.ids}, {r.banned.offsets, r.banned.ids}};
}

Gradient gradient_of(const isologit_cuda_gradient& g) { return {g.data, g.dtype, g.row_stride, g.accumulate != 0}; }

}  // namespace

std::string check_arithmetic_value(std::int32_t arithmetic) {
  if (arithmetic >= ISOLOGIT_EXACT && arithmetic <= (ISOLOGIT_FAST | ISOLOGIT_CUDA_WGMMA)) return {};
  return "arithmetic is " + number(arithmetic) +
         ", which is neither ISOLOGIT_EXACT (0) nor ISOLOGIT_FAST (1), nor one of them and ISOLOGIT_CUDA_WGMMA (2)";
}

bool is_fast(std::int32_t arithmetic) { return (arithmetic & ISOLOGIT_FAST) != 0; }
bool asks_for_wgmma(std::int32_t arithmetic) { return (arithmetic & ISOLOGIT_CUDA_WGMMA) != 0; }

std::string check_wgmma(int device, int major, int minor) {
  if (major == 9 && minor == 0) return {};
  return "device " + number(device) + " has compute capability " + number(major) + "." + number(minor) +
         "; ISOLOGIT_CUDA_WGMMA needs 9.0";
}

std::string check_hidden(std::int64_t rows, std::int64_t cols, std::int32_t dtype) {
  if (auto wrong = check_dtype("hidden.dtype", dtype); !wrong.empty()) return wrong;
  if (rows < 0) return "hidden has " + number(rows) + " rows, fewer than 0";
  if (cols < 1 || cols > kMostDepth) {
    return "hidden has " + number(cols) + " columns; the CUDA kernels take 1 to " + number(kMostDepth);
  }
  return {};
}

std::string check_backward_shape(std::int64_t rows, std::int64_t cols, std::int32_t dtype, std::int64_t vocab_size) {
  if (auto wrong = check_hidden(rows, cols, dtype); !wrong.empty()) return wrong;
  if (vocab_size < 1) return "vocab_size is " + number(vocab_size) + ", less than 1";
  return check_vocab(vocab_size);
}

std::string check_results(const isologit_cuda_score_request& request) {
  if (auto wrong = check_operands(request); !wrong.empty()) return wrong;
  if (auto wrong = check_ids(request.token_ids, request.ids_per_row); !wrong.empty()) return wrong;
  const bool of_ids = request.logprobs != nullptr || request.chosen_logits != nullptr || request.rank != nullptr;
  if (request.token_ids == nullptr && of_ids) return "logprobs, chosen_logits and rank need token_ids, which is NULL";
  if (request.top_k < 0 || request.top_k > kMostTopK) {
    return "top_k is " + number(request.top_k) + "; it must be from 0 to " + number(kMostTopK);
  }
  if ((request.top_k_ids != nullptr) == (request.top_k != 0) &&
      (request.top_k_logprobs != nullptr) == (request.top_k != 0)) {
    return {};
  }
  return "top_k is " + number(request.top_k) +
         "; top_k_ids and top_k_logprobs must both be NULL where it is 0, and none " + "where it is not";
}

std::string check_draws(const isologit_cuda_sample_request& r) {
  if (auto wrong = check_operands(r); !wrong.empty()) return wrong;
  if (auto wrong = check_numbers(r); !wrong.empty()) return wrong;
  const std::int64_t rows = r.hidden.rows;
  struct {
    std::string name, plural;
    const void* data;
    std::int64_t count;
    bool needed;
    std::int64_t bytes;
  } const numbers[] = {{"seed", "seeds", r.seeds, r.seed_count, true, 8},
                       {"sequence_id", "sequence_ids", r.sequence_ids, r.sequence_id_count, true, 8},
                       {"position", "positions", r.positions, r.position_count, true, 4},
                       {"min_p", "min_p", r.min_p, r.min_p_count, false, 4},
                       {"top_k", "top_k", r.top_k, r.top_k_count, false, 8},
                       {"top_p", "top_p", r.top_p, r.top_p_count, false, 4}};
  for (const auto& x : numbers) {
    if (auto wrong = check_per_row(x.name, x.plural, x.data, x.count, rows, x.needed, x.bytes); !wrong.empty()) {
      return wrong;
    }
  }
  return {};
}

std::string check_request(const isologit_cuda_logits_request& request) {
  if (auto wrong = check_operands(request); !wrong.empty()) return wrong;
  if (auto wrong = check_numbers(request); !wrong.empty()) return wrong;
  if (request.hidden.rows == 0) return {};
  if (auto wrong = check_dtype("logits_dtype", request.logits_dtype); !wrong.empty()) return wrong;
  const bool in_f32 = is_fast(request.arithmetic) || transforms_of(request).are_any();
  if (in_f32 && request.logits_dtype != ISOLOGIT_F32) {
    return "logits_dtype is " + number(request.logits_dtype) +
           "; logits of fast arithmetic or after transforms are in ISOLOGIT_F32 (2)";
  }
  if (auto wrong = check_address("logits", request.logits, element_size(request.logits_dtype)); !wrong.empty())
    return wrong;
  if (request.logits_stride < request.vocab_size) {
    return "logits_stride is " + number(request.logits_stride) + ", less than vocab_size, " +
           number(request.vocab_size);
  }
  if (request.has_softcap != 0 || request.status != nullptr) {
    if (auto wrong = check_address("status", request.status, 4); !wrong.empty()) return wrong;
  }
  const Workspace workspace = workspace_of(request.hidden.rows, request.hidden.cols, request.hidden.dtype);
  return check_workspace(request, workspace.bytes, "isologit_cuda_logits_workspace");
}

std::string check_request(const isologit_cuda_score_request& request) {
  if (auto wrong = check_results(request); !wrong.empty()) return wrong;
  if (auto wrong = check_numbers(request); !wrong.empty()) return wrong;
  if (request.hidden.rows == 0) return {};
  const ScorePlan plan = score_plan(kernels_request(request));
  return check_status_and_workspace(request, plan.bytes, "isologit_cuda_score_workspace");
}

std::string check_request(const isologit_cuda_sample_request& request) {
  if (auto wrong = check_draws(request); !wrong.empty()) return wrong;
  if (request.hidden.rows == 0) return {};
  const SamplePlan plan = sample_plan(kernels_request(request));
  return check_status_and_workspace(request, plan.bytes, "isologit_cuda_sample_workspace");
}

std::string check_given_shape(std::int64_t rows, std::int64_t vocab_size, std::int64_t ids_per_row) {
  if (rows < 0 || vocab_size < 1) {
    return "logits is [" + number(rows) + ", " + number(vocab_size) + "]; it needs columns, and no fewer than 0 rows";
  }
  if (auto wrong = check_vocab(vocab_size); !wrong.empty()) return wrong;
  return check_ids_per_row(ids_per_row);
}

std::string check_request(const isologit_cuda_given_request& request) {
  const auto& logits = request.logits;
  if (auto wrong = check_matrix("logits", logits); !wrong.empty()) return wrong;
  if (auto wrong = check_given_shape(logits.rows, logits.cols, request.ids_per_row); !wrong.empty()) return wrong;
  if (auto wrong = check_temperatures(request.temperatures, request.temperature_count, logits.rows); !wrong.empty()) {
    return wrong;
  }
  if (auto wrong = check_ids(request.token_ids, request.ids_per_row); !wrong.empty()) return wrong;
  if (request.token_ids == nullptr && request.logprobs != nullptr) return "logprobs needs token_ids, which is NULL";
  if (logits.rows == 0) return {};
  if (request.log_softmax != nullptr && request.log_softmax_stride < logits.cols) {
    return "log_softmax_stride is " + number(request.log_softmax_stride) + ", less than the columns of logits, " +
           number(logits.cols);
  }
  const GivenPlan plan = given_plan(logits.rows, static_cast<int>(logits.cols), static_cast<int>(request.ids_per_row));
  return check_status_and_workspace(request, plan.bytes, "isologit_cuda_given_workspace");
}

LogitsRequest kernels_request(const isologit_cuda_logits_request& r) {
  return {operands_of(r),        r.logits,    r.logits_dtype,   r.logits_stride,
          is_fast(r.arithmetic), r.workspace, transforms_of(r), reinterpret_cast<Status*>(r.status)};
}

GivenRequest kernels_request(const isologit_cuda_given_request& r) {
  return {operand_of(r.logits),
          r.logits.rows,
          static_cast<int>(r.logits.cols),
          r.temperature_count == 0 ? nullptr : r.temperatures,
          r.temperature_count == 1,
          r.token_ids,
          static_cast<int>(r.ids_per_row),
          r.ignore_index,
          r.logprobs,
          r.lse,
          r.entropy,
          r.log_softmax,
          r.log_softmax_stride,
          reinterpret_cast<Status*>(r.status),
          r.workspace};
}

ScoreRequest kernels_request(const isologit_cuda_score_request& r) {
  return {operands_of(r),
          transforms_of(r),
          r.token_ids,
          static_cast<int>(r.ids_per_row),
          r.ignore_index,
          r.ignores_rows != 0,
          r.logprobs,
          r.chosen_logits,
          r.lse,
          r.entropy,
          r.sum_p2,
          r.argmax,
          r.log_kept,
          r.rank,
          static_cast<int>(r.top_k),
          r.top_k_ids,
          r.top_k_logprobs,
          support_of(r),
          reinterpret_cast<Status*>(r.status),
          r.summaries,
          kKeptDoubles,
          is_fast(r.arithmetic),
          r.workspace};
}

SampleRequest kernels_request(const isologit_cuda_sample_request& r) {
  return {operands_of(r),
          transforms_of(r),
          per_row(r.temperatures, r.temperature_count),
          per_row(r.seeds, r.seed_count),
          per_row(r.sequence_ids, r.sequence_id_count),
          per_row(r.positions, r.position_count),
          per_row(r.min_p, r.min_p_count),
          per_row(r.top_k, r.top_k_count),
          per_row(r.top_p, r.top_p_count),
          support_of(r),
          r.ids,
          r.logprobs,
          r.cut_logprobs,
          r.log_kept_cut,
          reinterpret_cast<Status*>(r.status),
          is_fast(r.arithmetic),
          r.workspace};
}

BackwardRequest kernels_request(const isologit_cuda_backward_request& r) {
  return {operands_of(r),
          transforms_of(r),
          {r.token_ids, r.d_logprobs, static_cast<int>(r.ids_per_row), r.ignore_index, r.d_lse, r.d_entropy,
           r.d_mean_logits},
          support_of(r),
          r.summaries,
          gradient_of(r.dhidden),
          gradient_of(r.dweight),
          gradient_of(r.dbias),
          is_fast(r.arithmetic),
          reinterpret_cast<Status*>(r.status),
          r.workspace};
}

std::string check_request(const isologit_cuda_backward_request& request) {
  if (auto wrong = check_operands(request); !wrong.empty()) return wrong;
  if (auto wrong = check_ids(request.token_ids, request.ids_per_row); !wrong.empty()) return wrong;
  if (auto wrong = check_numbers(request); !wrong.empty()) return wrong;
  const auto& hidden = request.hidden;
  if (request.token_ids == nullptr && request.d_logprobs != nullptr) return "d_logprobs needs token_ids, which is NULL";
  if (auto wrong = check_gradient("dhidden", request.dhidden, hidden.cols); !wrong.empty()) return wrong;
  if (auto wrong = check_gradient("dweight", request.dweight, hidden.cols); !wrong.empty()) return wrong;
  if (auto wrong = check_gradient("dbias", request.dbias, 0); !wrong.empty()) return wrong;
  if (request.dbias.accumulate != 0) return "dbias.accumulate is " + number(request.dbias.accumulate) + "; expected 0";
  if (hidden.rows == 0) return "hidden has 0 rows, of which there are no gradients; expected at least 1";
  const BackwardPlan plan = backward_plan(hidden.rows, hidden.cols, hidden.dtype, static_cast<int>(request.vocab_size),
                                          request.summaries != nullptr);
  return check_status_and_workspace(request, plan.bytes, "isologit_cuda_backward_workspace");
}

}  // namespace isologit::detail::cuda
