// Results of given logits.
#include "cuda/device.cuh"
#include "cuda/given.cuh"
#include "cuda/launch.hpp"

namespace isologit::detail::cuda {

cudaError_t launch_given(const GivenRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  launch_given(launcher, request, given_plan(request.rows, request.vocab, request.ids_per_row));
  return launcher.error();
}

}  // namespace isologit::detail::cuda
