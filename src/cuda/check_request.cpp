#include "cuda/check_request.hpp"

#include <cstdint>

#include "cuda/logits.cuh"

namespace isologit::detail::cuda {
namespace {

std::string number(std::int64_t x) { return std::to_string(x); }

std::int64_t element_size(std::int32_t dtype) { return dtype == ISOLOGIT_F32 ? 4 : 2; }

std::string check_dtype(const std::string& name, std::int32_t dtype) {
  if (dtype >= ISOLOGIT_BF16 && dtype <= ISOLOGIT_F32) return {};
  return name + ".dtype is " + number(dtype) +
         ", which is none of ISOLOGIT_BF16 (0), ISOLOGIT_F16 (1) and ISOLOGIT_F32 (2)";
}

std::string check_address(const std::string& name, const void* data, std::int64_t multiple) {
  if (data == nullptr) return name + " is NULL";
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(multiple) == 0) return {};
  return name + " does not lie at a multiple of " + number(multiple) + " bytes, as a GPU needs it";
}

std::string check_matrix(const std::string& name, const isologit_matrix& matrix) {
  if (auto wrong = check_dtype(name, matrix.dtype); !wrong.empty()) return wrong;
  if (matrix.rows < 0 || matrix.cols < 1) {
    return name + " is [" + number(matrix.rows) + ", " + number(matrix.cols) +
           "]; it needs columns, and no fewer than 0 rows";
  }
  if (matrix.rows == 0) return {};
  return check_address(name + ".data", matrix.data, element_size(matrix.dtype));
}

std::string check_bias(const isologit_cuda_logits_request& request) {
  const auto& bias = request.bias;
  if (bias.data == nullptr && bias.size == 0) return {};
  if (auto wrong = check_dtype("bias", bias.dtype); !wrong.empty()) return wrong;
  if (bias.size != request.weight.rows) {
    return "bias has " + number(bias.size) + " elements, but weight has " + number(request.weight.rows) + " rows";
  }
  return check_address("bias.data", bias.data, element_size(bias.dtype));
}

}  // namespace

std::string check_hidden(std::int64_t rows, std::int64_t cols, std::int32_t dtype) {
  if (auto wrong = check_dtype("hidden", dtype); !wrong.empty()) return wrong;
  if (rows < 0) return "hidden has " + number(rows) + " rows, fewer than 0";
  if (cols < 1 || cols > kMostDepth) {
    return "hidden has " + number(cols) + " columns; the CUDA kernels take 1 to " + number(kMostDepth);
  }
  return {};
}

std::string check_request(const isologit_cuda_logits_request& request) {
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
  // As many tiles of rows as a grid may have in its second direction.
  constexpr std::int64_t kMostVocab = std::int64_t{65535} * 64;
  if (request.vocab_size > kMostVocab) {
    return "vocab_size is " + number(request.vocab_size) + "; the CUDA kernels take at most " + number(kMostVocab);
  }
  if (auto wrong = check_bias(request); !wrong.empty()) return wrong;
  if (request.hidden.rows == 0) return {};
  if (auto wrong = check_address("logits", request.logits, 4); !wrong.empty()) return wrong;
  if (request.logits_stride < request.vocab_size) {
    return "logits_stride is " + number(request.logits_stride) + ", less than vocab_size, " +
           number(request.vocab_size);
  }
  if (auto wrong = check_address("workspace", request.workspace, 16); !wrong.empty()) return wrong;
  const auto need = workspace_of(request.hidden.rows, request.hidden.cols, request.hidden.dtype).bytes;
  if (request.workspace_size < static_cast<std::size_t>(need)) {
    return "workspace_size is " + std::to_string(request.workspace_size) + "; isologit_cuda_logits_workspace says " +
           number(need);
  }
  return {};
}

}  // namespace isologit::detail::cuda
