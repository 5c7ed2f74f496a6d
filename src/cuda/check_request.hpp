// What a request must be before anything is launched. No CUDA: tested on any machine.
#pragma once

#include <string>

#include "isologit/cuda.h"

namespace isologit::detail::cuda {

// Empty, or what is wrong with it.
std::string check_request(const isologit_cuda_logits_request& request);

std::string check_request(const isologit_cuda_score_request& request);

std::string check_request(const isologit_cuda_backward_request& request);

// The same of what a workspace depends on.
std::string check_hidden(int64_t rows, int64_t cols, int32_t dtype);
std::string check_score_shape(int64_t rows, int64_t cols, int32_t dtype, int64_t vocab_size, int64_t ids_per_row);

}  // namespace isologit::detail::cuda
