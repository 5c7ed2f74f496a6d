// Launches kernels on the device.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/block.cuh"

namespace isologit::detail::cuda {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::Block::kThreads, Kernel::kBlocksPerProcessor)
    enter(const __grid_constant__ typename Kernel::Args args) {
  extern __shared__ __align__(1024) Sixteen shared[];  // as swizzled rows must lie (wgmma.cuh)
  typename Kernel::Block block;
  Kernel::run(block, *reinterpret_cast<typename Kernel::Shared*>(shared), args, static_cast<int>(blockIdx.x),
              static_cast<int>(blockIdx.y));
}

template <class Kernel>
cudaError_t start(int x, int y, const typename Kernel::Args& args, cudaStream_t stream) {
  constexpr int kBytes =
      std::is_empty_v<typename Kernel::Shared> ? 0 : static_cast<int>(sizeof(typename Kernel::Shared));
  if (kBytes > 48 * 1024) {  // what a block may have without asking
    const cudaError_t error = cudaFuncSetAttribute(enter<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return error;
  }
  enter<Kernel>
      <<<dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), Kernel::Block::kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
}

// The same of kernels with products by wgmma, which are compiled apart, for the devices that have it (wgmma.cu).
template <class Kernel>
cudaError_t start_wgmma(int x, int y, const typename Kernel::Args& args, cudaStream_t stream);

// Keeps the first error; later launches do nothing.
class DeviceLauncher {
 public:
  template <int WARPS>
  using Block = DeviceBlock<WARPS>;

  explicit DeviceLauncher(cudaStream_t stream) : stream_(stream) {}

  template <class Kernel>
  void launch(int x, int y, const typename Kernel::Args& args) {
    if (error_ != cudaSuccess) return;
    if constexpr (requires { Kernel::kByWgmma; }) {
      error_ = start_wgmma<Kernel>(x, y, args, stream_);
    } else {
      error_ = start<Kernel>(x, y, args, stream_);
    }
  }

  // Of what else was put on the stream.
  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  cudaError_t error() const { return error_; }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace isologit::detail::cuda
