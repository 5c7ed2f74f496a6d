// Samples: the kernels that do not depend on the weight's type, and their order.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"
#include "cuda/sample.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_sample(const SampleRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  launch_sample(launcher, request, sample_plan(request), [&](const Product& p) {
    launcher.note(prepared_of(request.weight.type)(p, request.hidden.type, stream));
  });
  return launcher.error();
}

}  // namespace isologit::detail::cuda
