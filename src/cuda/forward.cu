// The operators of a forward pass.
#include "cuda/device.cuh"
#include "cuda/launch.hpp"

namespace isologit::detail::cuda {

namespace {

template <class Request, class Launch>
cudaError_t launched(const Request& request, Status* status, cudaStream_t stream, Launch launch) {
  DeviceLauncher launcher(stream);
  if (status != nullptr) launcher.note(cudaMemsetAsync(status, 0, sizeof *status, stream));
  launch(launcher, request);
  return launcher.error();
}

}  // namespace

cudaError_t launch_rms_norm(const RmsNormRequest& request, cudaStream_t stream) {
  return launched(request, nullptr, stream, [](auto& launcher, const auto& r) { launch_rms_norm(launcher, r); });
}

cudaError_t launch_residual(const ResidualRequest& request, cudaStream_t stream) {
  return launched(request, nullptr, stream, [](auto& launcher, const auto& r) { launch_residual(launcher, r); });
}

cudaError_t launch_gate(const GateRequest& request, cudaStream_t stream) {
  return launched(request, request.status, stream, [](auto& launcher, const auto& r) { launch_gate(launcher, r); });
}

cudaError_t launch_rotary(const RotaryRequest& request, cudaStream_t stream) {
  return launched(request, request.status, stream, [](auto& launcher, const auto& r) { launch_rotary(launcher, r); });
}

}  // namespace isologit::detail::cuda
