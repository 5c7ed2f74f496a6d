// Attention.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"

namespace isologit::detail::cuda {

cudaError_t launch_attention(const AttentionRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  launch_attention(launcher, request);
  return launcher.error();
}

}  // namespace isologit::detail::cuda
