// The device code behind the C interface; what depends on the weight's type, a function for each.
#pragma once

#include <cuda_runtime.h>

#include "cuda/attention_plan.cuh"
#include "cuda/backward.cuh"
#include "cuda/gate.cuh"
#include "cuda/given.cuh"
#include "cuda/norm.cuh"
#include "cuda/residual.cuh"
#include "cuda/rotary.cuh"
#include "cuda/sample.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_bf16(const LogitsRequest& request, cudaStream_t stream);
cudaError_t launch_f16(const LogitsRequest& request, cudaStream_t stream);
cudaError_t launch_f32(const LogitsRequest& request, cudaStream_t stream);

// Of hidden rows that are prepared.
cudaError_t prepared_bf16(const Product& p, int hidden_type, cudaStream_t stream);
cudaError_t prepared_f16(const Product& p, int hidden_type, cudaStream_t stream);
cudaError_t prepared_f32(const Product& p, int hidden_type, cudaStream_t stream);

inline auto prepared_of(int weight_type) {
  return weight_type == kBf16 ? prepared_bf16 : weight_type == kF16 ? prepared_f16 : prepared_f32;
}

// After the products of a call for logits.
cudaError_t launch_transforms(const LogitsRequest& request, cudaStream_t stream);

cudaError_t launch_score(const ScoreRequest& request, cudaStream_t stream);
cudaError_t launch_backward(const BackwardRequest& request, cudaStream_t stream);
cudaError_t launch_sample(const SampleRequest& request, cudaStream_t stream);
cudaError_t launch_given(const GivenRequest& request, cudaStream_t stream);

cudaError_t launch_rms_norm(const RmsNormRequest& request, cudaStream_t stream);
cudaError_t launch_residual(const ResidualRequest& request, cudaStream_t stream);
cudaError_t launch_gate(const GateRequest& request, cudaStream_t stream);
cudaError_t launch_rotary(const RotaryRequest& request, cudaStream_t stream);
cudaError_t launch_attention(const AttentionRequest& request, cudaStream_t stream);

}  // namespace isologit::detail::cuda
