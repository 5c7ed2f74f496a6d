// What a request of an operator of the forward pass must be before anything is launched, and what the kernels are given
// of it. No CUDA: tested on any machine.
#pragma once

#include <string>

#include "cuda/attention_plan.cuh"
#include "cuda/gate.cuh"
#include "cuda/norm.cuh"
#include "cuda/residual.cuh"
#include "cuda/rotary.cuh"
#include "isologit/cuda.h"

namespace isologit::detail::cuda {

// Empty, or what is wrong with it.
std::string check_request(const isologit_cuda_rms_norm_request& request);
std::string check_request(const isologit_cuda_residual_request& request);
std::string check_request(const isologit_cuda_gate_request& request);
std::string check_request(const isologit_cuda_rotary_request& request);
std::string check_request(const isologit_cuda_attention_request& request);
// But for addresses.
std::string check_attention(const isologit_cuda_attention_request& request);

// Of one in which nothing is wrong.
RmsNormRequest kernels_request(const isologit_cuda_rms_norm_request& request);
ResidualRequest kernels_request(const isologit_cuda_residual_request& request);
GateRequest kernels_request(const isologit_cuda_gate_request& request);
RotaryRequest kernels_request(const isologit_cuda_rotary_request& request);
AttentionRequest kernels_request(const isologit_cuda_attention_request& request);

}  // namespace isologit::detail::cuda
