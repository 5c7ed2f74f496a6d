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
#if __CUDA_ARCH__ >= 900
  if constexpr (LetsNextBegin<Kernel>) asm volatile("griddepcontrol.launch_dependents;");
#endif
  typename Kernel::Block block;
  Kernel::run(block, *reinterpret_cast<typename Kernel::Shared*>(shared), args, static_cast<int>(blockIdx.x),
              static_cast<int>(blockIdx.y));
}

// Whether the stream's device can begin a kernel early (sm_90), and its driver capture that into a graph (12.3).
inline bool can_begin_early() {
  int device = 0;
  int major = 0;
  int driver = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9 &&
         cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
}

template <class Kernel>
cudaError_t start(int x, int y, const typename Kernel::Args& args, cudaStream_t stream) {
  static_assert(FitsItsCards<Kernel>, "cards of 8.6, 8.9 and 12.0 give a block 99 KiB of shared memory");
  constexpr int kBytes =
      std::is_empty_v<typename Kernel::Shared> ? 0 : static_cast<int>(sizeof(typename Kernel::Shared));
  if (kBytes > 48 * 1024) {  // what a block may have without asking
    const cudaError_t error = cudaFuncSetAttribute(enter<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
  config.blockDim = dim3(Kernel::Block::kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = BeginsEarly<Kernel> && can_begin_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, enter<Kernel>, args);
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
    if constexpr (ByWgmma<Kernel>) {
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
