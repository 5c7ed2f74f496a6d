// Gradients: the kernels that do not depend on the weight's type alone, and their order.
#include "cuda/backward.cuh"
#include "cuda/device.cuh"
#include "cuda/launch.hpp"

namespace isologit::detail::cuda {

cudaError_t launch_backward(const BackwardRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  const BackwardPlan plan =
      backward_plan(request.rows, request.size, request.hidden.type, request.vocab, request.summaries != nullptr);
  launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  launch_backward(
      launcher, request, plan,
      [&](const Product& p) { launcher.note(prepared_of(request.weight.type)(p, request.hidden.type, stream)); },
      [&](const ScoreRequest& score, const ScorePlan&) { launcher.note(launch_score(score, stream)); });
  return launcher.error();
}

}  // namespace isologit::detail::cuda
