// What follows the products of a call for logits.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"
#include "cuda/transform_rows.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_transforms(const LogitsRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  if (request.status != nullptr) {
    launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  }
  launch_transforms(launcher, request);
  return launcher.error();
}

}  // namespace isologit::detail::cuda
