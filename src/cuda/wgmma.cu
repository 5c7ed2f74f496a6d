// The kernels with products by wgmma, compiled for sm_90a alone, whose code no other device runs: there a launch is the
// error that there is none.
#include "cuda/device.cuh"
#include "cuda/digit_wgmma.cuh"
#include "cuda/fast_wgmma.cuh"
#include "cuda/wgmma_self_test.cuh"

namespace isologit::detail::cuda {

template <class Kernel>
cudaError_t start_wgmma(int x, int y, const typename Kernel::Args& args, cudaStream_t stream) {
  return start<Kernel>(x, y, args, stream);
}

using Four = DeviceBlock<4>;
using Eight = DeviceBlock<8>;
template cudaError_t start_wgmma<DigitsWgmma<Four, 4, false>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<DigitsWgmma<Four, 4, true>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<DigitsWgmma<Four, 8, false>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<DigitsWgmma<Four, 8, true>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<FastWgmma<Eight, Bf16>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<FastWgmma<Eight, F16>>(int, int, const Product&, cudaStream_t);
template cudaError_t start_wgmma<WgmmaSelfTest<Four>>(int, int, const SelfTesting&, cudaStream_t);
template cudaError_t start_wgmma<FastWgmmaSelfTest<Four, Bf16>>(int, int, const SelfTesting&, cudaStream_t);
template cudaError_t start_wgmma<FastWgmmaSelfTest<Four, F16>>(int, int, const SelfTesting&, cudaStream_t);

}  // namespace isologit::detail::cuda
