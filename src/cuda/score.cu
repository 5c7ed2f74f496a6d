// Scores: the kernels that do not depend on the weight's type, and their order.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"
#include "cuda/score.cuh"

namespace isologit::detail::cuda {

cudaError_t launch_score(const ScoreRequest& request, cudaStream_t stream) {
  DeviceLauncher launcher(stream);
  const bool shape = request.entropy != nullptr || request.sum_p2 != nullptr || request.summaries != nullptr;
  launcher.note(cudaMemsetAsync(request.status, 0, sizeof *request.status, stream));
  launch_score(launcher, request, shape, score_plan(request), [&](const Product& p) {
    launcher.note(prepared_of(request.weight.type)(p, request.hidden.type, stream));
  });
  return launcher.error();
}

}  // namespace isologit::detail::cuda
