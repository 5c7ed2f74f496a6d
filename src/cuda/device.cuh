// Launches kernels on the device.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/block.cuh"

namespace isologit::detail::cuda {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::Block::kThreads, Kernel::kBlocksPerProcessor)
    enter(const __grid_constant__ typename Kernel::Args args) {
  extern __shared__ Sixteen shared[];
  typename Kernel::Block block;
  Kernel::run(block, *reinterpret_cast<typename Kernel::Shared*>(shared), args, static_cast<int>(blockIdx.x),
              static_cast<int>(blockIdx.y));
}

// Keeps the first error; later launches do nothing.
class DeviceLauncher {
 public:
  template <int WARPS>
  using Block = DeviceBlock<WARPS>;

  explicit DeviceLauncher(cudaStream_t stream) : stream_(stream) {}

  template <class Kernel>
  void launch(int x, int y, const typename Kernel::Args& args) {
    if (error_ != cudaSuccess) return;
    constexpr int kBytes =
        std::is_empty_v<typename Kernel::Shared> ? 0 : static_cast<int>(sizeof(typename Kernel::Shared));
    if (kBytes > 48 * 1024) {  // what a block may have without asking
      error_ = cudaFuncSetAttribute(enter<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      if (error_ != cudaSuccess) return;
    }
    enter<Kernel>
        <<<dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), Kernel::Block::kThreads, kBytes, stream_>>>(args);
    error_ = cudaGetLastError();
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
