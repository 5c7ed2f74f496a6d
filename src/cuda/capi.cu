// The C interface (isologit/cuda.h).
#include <cstring>
#include <string>

#include "cuda/check_request.hpp"
#include "cuda/device.cuh"
#include "cuda/device_guard.hpp"
#include "cuda/fast_self_test.cuh"
#include "cuda/launch.hpp"
#include "cuda/self_test.cuh"
#include "isologit/cuda.h"

namespace {

using isologit::detail::cuda::DeviceGuard;

isologit_status say(isologit_status status, const std::string& text, char* message, size_t message_size) {
  if (message_size == 0) return status;
  const size_t length = text.size() < message_size ? text.size() : message_size - 1;
  std::memcpy(message, text.data(), length);
  message[length] = 0;
  return status;
}

isologit_status say(cudaError_t error, const char* doing, char* message, size_t message_size) {
  if (error == cudaSuccess) return say(ISOLOGIT_OK, "", message, message_size);
  const bool memory = error == cudaErrorMemoryAllocation;
  const bool missing = error == cudaErrorNoKernelImageForDevice || error == cudaErrorNoDevice ||
                       error == cudaErrorInvalidDevice || error == cudaErrorInsufficientDriver;
  return say(memory    ? ISOLOGIT_OUT_OF_MEMORY
             : missing ? ISOLOGIT_UNSUPPORTED
                       : ISOLOGIT_IO_ERROR,
             std::string("CUDA, ") + doing + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")",
             message, message_size);
}

cudaError_t launch_self_test(std::int32_t arithmetic, std::uint32_t* count) {
  namespace cuda = isologit::detail::cuda;
  cuda::DeviceLauncher launcher(nullptr);
  if (arithmetic == ISOLOGIT_EXACT) {
    using Kernel = cuda::SelfTest<cuda::DeviceBlock<4>>;
    launcher.launch<Kernel>(Kernel::kKinds, 1, {count});
  } else {
    using OfBf16 = cuda::FastSelfTest<cuda::DeviceBlock<4>, cuda::Bf16>;
    using OfF16 = cuda::FastSelfTest<cuda::DeviceBlock<4>, cuda::F16>;
    launcher.launch<OfBf16>(OfBf16::kKinds, 1, {count});
    launcher.launch<OfF16>(OfF16::kKinds, 1, {count});
  }
  return launcher.error();
}

// Whether it is one this library knows.
template <class Request>
isologit_status check_size(const Request* request, char* message, size_t message_size) {
  if (request == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "request is NULL", message, message_size);
  if (request->struct_size == sizeof *request) return ISOLOGIT_OK;
  return say(ISOLOGIT_INVALID_ARGUMENT,
             "request.struct_size is " + std::to_string(request->struct_size) + "; this library knows " +
                 std::to_string(sizeof *request),
             message, message_size);
}

}  // namespace

extern "C" {

isologit_status isologit_cuda_logits_workspace(int64_t rows, int64_t cols, int32_t dtype, size_t* bytes, char* message,
                                               size_t message_size) {
  const std::string wrong = isologit::detail::cuda::check_hidden(rows, cols, dtype);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (bytes == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL", message, message_size);
  *bytes = static_cast<size_t>(isologit::detail::cuda::workspace_of(rows, cols, dtype).bytes);
  return say(ISOLOGIT_OK, "", message, message_size);
}

isologit_status isologit_cuda_logits(const isologit_cuda_logits_request* request, char* message, size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_request(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (request->hidden.rows == 0) return say(ISOLOGIT_OK, "", message, message_size);
  const DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return say(device.error(), "choosing the device", message, message_size);
  const auto stream = static_cast<cudaStream_t>(request->stream);
  const auto own = isologit::detail::cuda::kernels_request(*request);
  const cudaError_t error = own.weight.type == ISOLOGIT_BF16  ? isologit::detail::cuda::launch_bf16(own, stream)
                            : own.weight.type == ISOLOGIT_F16 ? isologit::detail::cuda::launch_f16(own, stream)
                                                              : isologit::detail::cuda::launch_f32(own, stream);
  return say(error, "launching the kernels of logits", message, message_size);
}

isologit_status isologit_cuda_score_workspace(const isologit_cuda_score_request* request, size_t* bytes, char* message,
                                              size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_results(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (bytes == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL", message, message_size);
  *bytes =
      static_cast<size_t>(isologit::detail::cuda::score_plan(isologit::detail::cuda::kernels_request(*request)).bytes);
  return say(ISOLOGIT_OK, "", message, message_size);
}

isologit_status isologit_cuda_score(const isologit_cuda_score_request* request, char* message, size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_request(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (request->hidden.rows == 0) return say(ISOLOGIT_OK, "", message, message_size);
  const DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return say(device.error(), "choosing the device", message, message_size);
  const cudaError_t error = isologit::detail::cuda::launch_score(isologit::detail::cuda::kernels_request(*request),
                                                                 static_cast<cudaStream_t>(request->stream));
  return say(error, "launching the kernels of scores", message, message_size);
}

isologit_status isologit_cuda_sample_workspace(const isologit_cuda_sample_request* request, size_t* bytes,
                                               char* message, size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_draws(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (bytes == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL", message, message_size);
  *bytes =
      static_cast<size_t>(isologit::detail::cuda::sample_plan(isologit::detail::cuda::kernels_request(*request)).bytes);
  return say(ISOLOGIT_OK, "", message, message_size);
}

isologit_status isologit_cuda_sample(const isologit_cuda_sample_request* request, char* message, size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_request(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (request->hidden.rows == 0) return say(ISOLOGIT_OK, "", message, message_size);
  const DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return say(device.error(), "choosing the device", message, message_size);
  const cudaError_t error = isologit::detail::cuda::launch_sample(isologit::detail::cuda::kernels_request(*request),
                                                                  static_cast<cudaStream_t>(request->stream));
  return say(error, "launching the kernels of samples", message, message_size);
}

isologit_status isologit_cuda_backward_workspace(int64_t rows, int64_t cols, int32_t dtype, int64_t vocab_size,
                                                 int32_t has_summaries, size_t* bytes, char* message,
                                                 size_t message_size) {
  const std::string wrong = isologit::detail::cuda::check_backward_shape(rows, cols, dtype, vocab_size);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (bytes == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL", message, message_size);
  *bytes = static_cast<size_t>(
      isologit::detail::cuda::backward_plan(rows, cols, dtype, static_cast<int>(vocab_size), has_summaries != 0).bytes);
  return say(ISOLOGIT_OK, "", message, message_size);
}

isologit_status isologit_cuda_backward(const isologit_cuda_backward_request* request, char* message,
                                       size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_request(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  const DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return say(device.error(), "choosing the device", message, message_size);
  const cudaError_t error = isologit::detail::cuda::launch_backward(isologit::detail::cuda::kernels_request(*request),
                                                                    static_cast<cudaStream_t>(request->stream));
  return say(error, "launching the kernels of gradients", message, message_size);
}

isologit_status isologit_cuda_given_workspace(int64_t rows, int64_t vocab_size, int64_t ids_per_row, size_t* bytes,
                                              char* message, size_t message_size) {
  const std::string wrong = isologit::detail::cuda::check_given_shape(rows, vocab_size, ids_per_row);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (bytes == nullptr) return say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL", message, message_size);
  *bytes = static_cast<size_t>(
      isologit::detail::cuda::given_plan(rows, static_cast<int>(vocab_size), static_cast<int>(ids_per_row)).bytes);
  return say(ISOLOGIT_OK, "", message, message_size);
}

isologit_status isologit_cuda_given(const isologit_cuda_given_request* request, char* message, size_t message_size) {
  const isologit_status known = check_size(request, message, message_size);
  if (known != ISOLOGIT_OK) return known;
  const std::string wrong = isologit::detail::cuda::check_request(*request);
  if (!wrong.empty()) return say(ISOLOGIT_INVALID_ARGUMENT, wrong, message, message_size);
  if (request->logits.rows == 0) return say(ISOLOGIT_OK, "", message, message_size);
  const DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return say(device.error(), "choosing the device", message, message_size);
  const cudaError_t error = isologit::detail::cuda::launch_given(isologit::detail::cuda::kernels_request(*request),
                                                                 static_cast<cudaStream_t>(request->stream));
  return say(error, "launching the kernels of given logits", message, message_size);
}

isologit_status isologit_cuda_self_test(int32_t device, int32_t arithmetic, char* message, size_t message_size) {
  if (arithmetic != ISOLOGIT_EXACT && arithmetic != ISOLOGIT_FAST) {
    return say(ISOLOGIT_INVALID_ARGUMENT,
               "arithmetic is " + std::to_string(arithmetic) + "; expected ISOLOGIT_EXACT (0) or ISOLOGIT_FAST (1)",
               message, message_size);
  }
  const DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return say(guard.error(), "choosing the device", message, message_size);
  std::uint32_t* count = nullptr;
  std::uint32_t broken = 0;
  cudaError_t error = cudaMalloc(&count, sizeof *count);
  if (error != cudaSuccess) return say(error, "allocating 4 bytes for the self-test", message, message_size);
  error = cudaMemset(count, 0, sizeof *count);
  if (error == cudaSuccess) error = launch_self_test(arithmetic, count);
  if (error == cudaSuccess) error = cudaMemcpy(&broken, count, sizeof broken, cudaMemcpyDeviceToHost);
  cudaFree(count);
  if (error == cudaSuccess && broken != 0) {
    const std::string sums = "device " + std::to_string(device) + ": " + std::to_string(broken) + " sums of ";
    return say(ISOLOGIT_UNSUPPORTED,
               sums + (arithmetic == ISOLOGIT_EXACT
                           ? "f64 products are not rounded as IEEE 754 has it; exact arithmetic needs a device and a "
                             "build that do (no fast math)"
                           : "bf16 or f16 products are further from the real ones than the fast arithmetic allows, or "
                             "not the same at each place; expected exact arithmetic on this device"),
               message, message_size);
  }
  return say(error, "running the self-test", message, message_size);
}

}  // extern "C"
