// Logits of bf16 weights. A file for each type, so that they are compiled side by side.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"
#include "cuda/logits.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_bf16(const LogitsRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  launch_logits<DeviceLauncher, Bf16>(launcher, request);
  return launcher.error();
}

cudaError_t prepared_bf16(const Product& p, int hidden_type, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  launch_prepared<DeviceLauncher, Bf16>(launcher, p, hidden_type);
  return launcher.error();
}

}  // namespace isologit::detail::cuda
