// What a request must be before anything is launched, and what the kernels are given of it. No CUDA: tested on any
// machine.
#pragma once

#include <string>

#include "cuda/backward.cuh"
#include "cuda/given.cuh"
#include "cuda/sample.cuh"
#include "isologit/cuda.h"

namespace isologit::detail::cuda {

// Empty, or what is wrong with it.
std::string check_request(const isologit_cuda_logits_request& request);

std::string check_request(const isologit_cuda_score_request& request);

std::string check_request(const isologit_cuda_backward_request& request);

std::string check_request(const isologit_cuda_given_request& request);

std::string check_request(const isologit_cuda_sample_request& request);

// The same of what a workspace depends on.
std::string check_hidden(int64_t rows, int64_t cols, int32_t dtype);
std::string check_results(const isologit_cuda_score_request& request);
std::string check_draws(const isologit_cuda_sample_request& request);
std::string check_backward_shape(int64_t rows, int64_t cols, int32_t dtype, int64_t vocab_size);
std::string check_given_shape(int64_t rows, int64_t vocab_size, int64_t ids_per_row);

// Of an arithmetic; and of a device's compute capability, for products by wgmma.
std::string check_arithmetic_value(std::int32_t arithmetic);
std::string check_wgmma(int device, int major, int minor);

bool is_fast(std::int32_t arithmetic);
bool asks_for_wgmma(std::int32_t arithmetic);

// Of one in which nothing is wrong.
LogitsRequest kernels_request(const isologit_cuda_logits_request& request);
ScoreRequest kernels_request(const isologit_cuda_score_request& request);
BackwardRequest kernels_request(const isologit_cuda_backward_request& request);
GivenRequest kernels_request(const isologit_cuda_given_request& request);
SampleRequest kernels_request(const isologit_cuda_sample_request& request);

}  // namespace isologit::detail::cuda
