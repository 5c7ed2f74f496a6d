// The C interface (isologit/cuda.h).
#include <cstring>
#include <string>

#include "cuda/check_forward.hpp"
#include "cuda/check_request.hpp"
#include "cuda/device.cuh"
#include "cuda/device_guard.hpp"
#include "cuda/fast_self_test.cuh"
#include "cuda/launch.hpp"
#include "cuda/quotient_self_test.cuh"
#include "cuda/wgmma_self_test.cuh"
#include "isologit/cuda.h"

namespace cuda = isologit::detail::cuda;

namespace {

// Where a call says what went wrong.
struct Message {
  char* text;
  size_t size;

  isologit_status say(isologit_status status, const std::string& what) const {
    if (size == 0) return status;
    const size_t length = what.size() < size ? what.size() : size - 1;
    std::memcpy(text, what.data(), length);
    text[length] = 0;
    return status;
  }

  isologit_status say(cudaError_t error, const char* doing) const {
    if (error == cudaSuccess) return say(ISOLOGIT_OK, "");
    const bool memory = error == cudaErrorMemoryAllocation;
    const bool missing = error == cudaErrorNoKernelImageForDevice || error == cudaErrorNoDevice ||
                         error == cudaErrorInvalidDevice || error == cudaErrorInsufficientDriver;
    return say(memory    ? ISOLOGIT_OUT_OF_MEMORY
               : missing ? ISOLOGIT_UNSUPPORTED
                         : ISOLOGIT_IO_ERROR,
               std::string("CUDA, ") + doing + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
  }
};

template <class E>
void launch_fast_self_test(cuda::DeviceLauncher& launcher, bool wgmma, std::uint32_t* count) {
  using Kernel = cuda::FastSelfTest<cuda::DeviceBlock<4>, E>;
  launcher.launch<Kernel>(Kernel::kKinds, 1, {count});
  using OfWgmma = cuda::FastWgmmaSelfTest<cuda::DeviceBlock<4>, E>;
  if (wgmma) launcher.launch<OfWgmma>(OfWgmma::kKinds, OfWgmma::kRounds, {count});
}

cudaError_t launch_self_test(std::int32_t arithmetic, std::uint32_t* count) {
  cuda::DeviceLauncher launcher(nullptr);
  const bool wgmma = cuda::asks_for_wgmma(arithmetic);
  if (cuda::is_fast(arithmetic)) {
    launch_fast_self_test<cuda::Bf16>(launcher, wgmma, count);
    launch_fast_self_test<cuda::F16>(launcher, wgmma, count);
  } else {
    using Kernel = cuda::SelfTest<cuda::DeviceBlock<4>>;
    launcher.launch<Kernel>(Kernel::kKinds, 1, {count});
    launcher.launch<cuda::QuotientSelfTest<cuda::DeviceBlock<4>>>(1, 1, {count});
    using OfWgmma = cuda::WgmmaSelfTest<cuda::DeviceBlock<4>>;
    if (wgmma) launcher.launch<OfWgmma>(OfWgmma::kKinds, 1, {count});
  }
  return launcher.error();
}

// Empty, or why products by wgmma, if that is what is asked for, cannot be had on a device.
std::string check_capability(std::int32_t arithmetic, std::int32_t device) {
  if (!cuda::asks_for_wgmma(arithmetic)) return {};
  int major = 0;
  int minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return cuda::check_wgmma(device, major, minor);
}
template <class Request>
std::string check_capability(const Request& request) {
  if constexpr (requires { request.arithmetic; }) return check_capability(request.arithmetic, request.device);
  return {};
}

// Empty, or why it is none that this library knows.
template <class Request>
std::string check_size(const Request* request) {
  if (request == nullptr) return "request is NULL";
  if (request->struct_size == sizeof *request) return {};
  return "request.struct_size is " + std::to_string(request->struct_size) + "; this library knows " +
         std::to_string(sizeof *request);
}

// Of a workspace for what is asked for, in which something is wrong or nothing.
template <class Bytes>
isologit_status tell_bytes(const std::string& wrong, Bytes need, size_t* bytes, const Message& message) {
  if (!wrong.empty()) return message.say(ISOLOGIT_INVALID_ARGUMENT, wrong);
  if (bytes == nullptr) return message.say(ISOLOGIT_INVALID_ARGUMENT, "bytes is NULL");
  *bytes = static_cast<size_t>(need());
  return message.say(ISOLOGIT_OK, "");
}

template <class Request>
std::int64_t rows_of(const Request& r) {
  return r.hidden.rows;
}
std::int64_t rows_of(const isologit_cuda_given_request& r) { return r.logits.rows; }
std::int64_t rows_of(const isologit_cuda_rms_norm_request& r) { return r.x.tokens; }
std::int64_t rows_of(const isologit_cuda_residual_request& r) { return r.x.tokens; }
std::int64_t rows_of(const isologit_cuda_gate_request& r) { return r.gate.tokens; }
std::int64_t rows_of(const isologit_cuda_rotary_request& r) { return r.x.tokens; }
std::int64_t rows_of(const isologit_cuda_attention_request& r) { return r.q.tokens; }

// Has `launch` put the kernels of a request on its stream.
template <class Request>
isologit_status call(const Request* request,
                     cudaError_t (*launch)(const decltype(cuda::kernels_request(*request))&, cudaStream_t),
                     const char* doing, const Message& message) {
  if (auto wrong = check_size(request); !wrong.empty()) return message.say(ISOLOGIT_INVALID_ARGUMENT, wrong);
  if (auto wrong = cuda::check_request(*request); !wrong.empty()) return message.say(ISOLOGIT_INVALID_ARGUMENT, wrong);
  if (rows_of(*request) == 0) return message.say(ISOLOGIT_OK, "");
  const cuda::DeviceGuard device(request->device);
  if (device.error() != cudaSuccess) return message.say(device.error(), "choosing the device");
  if (auto wrong = check_capability(*request); !wrong.empty()) return message.say(ISOLOGIT_UNSUPPORTED, wrong);
  return message.say(launch(cuda::kernels_request(*request), static_cast<cudaStream_t>(request->stream)), doing);
}

cudaError_t launch_logits(const cuda::LogitsRequest& request, cudaStream_t stream) {
  const cudaError_t error = request.weight.type == ISOLOGIT_BF16  ? cuda::launch_bf16(request, stream)
                            : request.weight.type == ISOLOGIT_F16 ? cuda::launch_f16(request, stream)
                                                                  : cuda::launch_f32(request, stream);
  return error == cudaSuccess ? cuda::launch_transforms(request, stream) : error;
}

}  // namespace

extern "C" {

isologit_status isologit_cuda_logits_workspace(int64_t rows, int64_t cols, int32_t dtype, size_t* bytes, char* message,
                                               size_t message_size) {
  const auto need = [&] { return cuda::workspace_of(rows, cols, dtype).bytes; };
  return tell_bytes(cuda::check_hidden(rows, cols, dtype), need, bytes, {message, message_size});
}

isologit_status isologit_cuda_logits(const isologit_cuda_logits_request* request, char* message, size_t message_size) {
  return call(request, launch_logits, "launching the kernels of logits", {message, message_size});
}

isologit_status isologit_cuda_score_workspace(const isologit_cuda_score_request* request, size_t* bytes, char* message,
                                              size_t message_size) {
  std::string wrong = check_size(request);
  if (wrong.empty()) wrong = cuda::check_results(*request);
  const auto need = [&] { return cuda::score_plan(cuda::kernels_request(*request)).bytes; };
  return tell_bytes(wrong, need, bytes, {message, message_size});
}

isologit_status isologit_cuda_score(const isologit_cuda_score_request* request, char* message, size_t message_size) {
  return call(request, cuda::launch_score, "launching the kernels of scores", {message, message_size});
}

isologit_status isologit_cuda_sample_workspace(const isologit_cuda_sample_request* request, size_t* bytes,
                                               char* message, size_t message_size) {
  std::string wrong = check_size(request);
  if (wrong.empty()) wrong = cuda::check_draws(*request);
  const auto need = [&] { return cuda::sample_plan(cuda::kernels_request(*request)).bytes; };
  return tell_bytes(wrong, need, bytes, {message, message_size});
}

isologit_status isologit_cuda_sample(const isologit_cuda_sample_request* request, char* message, size_t message_size) {
  return call(request, cuda::launch_sample, "launching the kernels of samples", {message, message_size});
}

isologit_status isologit_cuda_backward_workspace(int64_t rows, int64_t cols, int32_t dtype, int64_t vocab_size,
                                                 int32_t has_summaries, size_t* bytes, char* message,
                                                 size_t message_size) {
  const auto need = [&] {
    return cuda::backward_plan(rows, cols, dtype, static_cast<int>(vocab_size), has_summaries != 0).bytes;
  };
  return tell_bytes(cuda::check_backward_shape(rows, cols, dtype, vocab_size), need, bytes, {message, message_size});
}

isologit_status isologit_cuda_backward(const isologit_cuda_backward_request* request, char* message,
                                       size_t message_size) {
  return call(request, cuda::launch_backward, "launching the kernels of gradients", {message, message_size});
}

isologit_status isologit_cuda_given_workspace(int64_t rows, int64_t vocab_size, int64_t ids_per_row, size_t* bytes,
                                              char* message, size_t message_size) {
  const auto need = [&] {
    return cuda::given_plan(rows, static_cast<int>(vocab_size), static_cast<int>(ids_per_row)).bytes;
  };
  return tell_bytes(cuda::check_given_shape(rows, vocab_size, ids_per_row), need, bytes, {message, message_size});
}

isologit_status isologit_cuda_given(const isologit_cuda_given_request* request, char* message, size_t message_size) {
  return call(request, cuda::launch_given, "launching the kernels of given logits", {message, message_size});
}

isologit_status isologit_cuda_rms_norm(const isologit_cuda_rms_norm_request* request, char* message,
                                       size_t message_size) {
  return call(request, cuda::launch_rms_norm, "launching the kernel of rms_norm", {message, message_size});
}

isologit_status isologit_cuda_residual(const isologit_cuda_residual_request* request, char* message,
                                       size_t message_size) {
  return call(request, cuda::launch_residual, "launching the kernel of residual", {message, message_size});
}

isologit_status isologit_cuda_gate(const isologit_cuda_gate_request* request, char* message, size_t message_size) {
  return call(request, cuda::launch_gate, "launching the kernel of gate", {message, message_size});
}

isologit_status isologit_cuda_rotary(const isologit_cuda_rotary_request* request, char* message, size_t message_size) {
  return call(request, cuda::launch_rotary, "launching the kernel of rotary", {message, message_size});
}

isologit_status isologit_cuda_attention_workspace(const isologit_cuda_attention_request* request, size_t* bytes,
                                                  char* message, size_t message_size) {
  std::string wrong = check_size(request);
  if (wrong.empty()) wrong = cuda::check_attention(*request);
  const auto need = [&] { return cuda::attention_plan(cuda::kernels_request(*request)).bytes; };
  return tell_bytes(wrong, need, bytes, {message, message_size});
}

isologit_status isologit_cuda_attention(const isologit_cuda_attention_request* request, char* message,
                                        size_t message_size) {
  return call(request, cuda::launch_attention, "launching the kernels of attention", {message, message_size});
}

isologit_status isologit_cuda_self_test(int32_t device, int32_t arithmetic, char* message, size_t message_size) {
  const Message told{message, message_size};
  if (auto wrong = cuda::check_arithmetic_value(arithmetic); !wrong.empty()) {
    return told.say(ISOLOGIT_INVALID_ARGUMENT, wrong);
  }
  const cuda::DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return told.say(guard.error(), "choosing the device");
  if (auto wrong = check_capability(arithmetic, device); !wrong.empty()) return told.say(ISOLOGIT_UNSUPPORTED, wrong);
  std::uint32_t* count = nullptr;
  std::uint32_t broken = 0;
  cudaError_t error = cudaMalloc(&count, sizeof *count);
  if (error != cudaSuccess) return told.say(error, "allocating 4 bytes for the self-test");
  error = cudaMemset(count, 0, sizeof *count);
  if (error == cudaSuccess) error = launch_self_test(arithmetic, count);
  if (error == cudaSuccess) error = cudaMemcpy(&broken, count, sizeof broken, cudaMemcpyDeviceToHost);
  cudaFree(count);
  if (error == cudaSuccess && broken != 0) {
    const std::string sums = "device " + std::to_string(device) + ": " + std::to_string(broken) + " sums of ";
    return told.say(
        ISOLOGIT_UNSUPPORTED,
        sums +
            (cuda::is_fast(arithmetic)
                 ? "bf16 or f16 products are further from the real ones than the fast arithmetic and gradients of "
                   "bf16 allow, or not the same at each place or by wgmma; expected exact arithmetic on this device, "
                   "or no ISOLOGIT_CUDA_WGMMA"
                 : "f64 products are not rounded as IEEE 754 has it, or sums of bytes by wgmma are not exact; exact "
                   "arithmetic needs a device and a build that do (no fast math)"));
  }
  return told.say(error, "running the self-test");
}

}  // extern "C"
