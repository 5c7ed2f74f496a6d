// The device code behind the C interface, one function a type of weight.
#pragma once

#include <cuda_runtime.h>

#include "cuda/logits.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_bf16(const LogitsRequest& request, cudaStream_t stream);
cudaError_t launch_f16(const LogitsRequest& request, cudaStream_t stream);
cudaError_t launch_f32(const LogitsRequest& request, cudaStream_t stream);

}  // namespace isologit::detail::cuda
