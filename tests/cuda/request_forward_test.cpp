// Requests of the forward pass that cannot be served are refused before anything is launched, and told why.
#include <functional>
#include <limits>

#include "activations.hpp"

namespace isologit::detail::cuda {
namespace {

alignas(16) char memory[64];  // never read

isologit_tensor tensor() { return {memory, 2, 3, 8, 24, 8, ISOLOGIT_BF16}; }

template <class Request>
struct Mistake {
  std::string expected;
  std::function<void(Request&)> make;
};
template <class Request>
void expect_named(const Request& good, const std::vector<Mistake<Request>>& mistakes) {
  EXPECT_EQ(check_request(good), "");
  for (const auto& mistake : mistakes) {
    Request request = good;
    mistake.make(request);
    EXPECT_EQ(check_request(request).substr(0, mistake.expected.size()), mistake.expected);
  }
}

TEST(CudaForwardRequest, MistakesInNorms) {
  isologit_cuda_rms_norm_request good = {};
  good.x = tensor();
  good.weight = {memory, 8, ISOLOGIT_F32};
  good.y = {memory, 24, 8};
  expect_named<isologit_cuda_rms_norm_request>(
      good, {
                {"x.dtype is 3", [](auto& r) { r.x.dtype = 3; }},
                {"x is [2, 3, 0]; the CUDA kernels take 1 to 1048576", [](auto& r) { r.x.dim = 0; }},
                {"x is [2, 3, 1048577]", [](auto& r) { r.x.dim = 1048577; }},
                {"x is [-1, 3, 8]", [](auto& r) { r.x.tokens = -1; }},
                {"x is [715827883, 3, 8]; the CUDA kernels take at most 2147483647 rows",
                 [](auto& r) { r.x.tokens = 715827883; }},
                {"x is [715827882, 3, 1025]; the CUDA kernels take at most 1073741823 rows",
                 [](auto& r) {
                   r.x.tokens = 715827882;
                   r.x.dim = 1025;
                 }},
                {"x.data is NULL", [](auto& r) { r.x.data = nullptr; }},
                {"x.data does not lie at a multiple of 2", [](auto& r) { r.x.data = memory + 1; }},
                {"weight has 7 elements, but a row of x has 8", [](auto& r) { r.weight.size = 7; }},
                {"weight.dtype is 9", [](auto& r) { r.weight.dtype = 9; }},
                {"weight.data is NULL", [](auto& r) { r.weight.data = nullptr; }},
                {"weight.data does not lie at a multiple of 4", [](auto& r) { r.weight.data = memory + 2; }},
                {"epsilon is -1", [](auto& r) { r.epsilon = -1; }},
                {"epsilon is inf", [](auto& r) { r.epsilon = std::numeric_limits<float>::infinity(); }},
                {"y.data is NULL", [](auto& r) { r.y.data = nullptr; }},
            });
  good.x.tokens = 0;
  good.x.data = good.y.data = nullptr;
  good.x.heads = 0;
  EXPECT_EQ(check_request(good), "");
  EXPECT_EQ(kernels_request(good).x.rows.heads, 1);
}

TEST(CudaForwardRequest, MistakesInResiduals) {
  isologit_cuda_residual_request good = {};
  good.x = good.a = good.b = tensor();
  good.multiplier = 1;
  good.y = {memory, 24, 8};
  expect_named<isologit_cuda_residual_request>(
      good, {
                {"a is [2, 2, 8] of dtype 0, but x is [2, 3, 8] of 0", [](auto& r) { r.a.heads = 2; }},
                {"b is [2, 3, 8] of dtype 1, but x is [2, 3, 8] of 0", [](auto& r) { r.b.dtype = ISOLOGIT_F16; }},
                {"a.data is NULL", [](auto& r) { r.a.data = nullptr; }},
                {"multiplier is nan", [](auto& r) { r.multiplier = std::numeric_limits<float>::quiet_NaN(); }},
                {"y.data does not lie", [](auto& r) { r.y.data = memory + 1; }},
            });
}

TEST(CudaForwardRequest, MistakesInGates) {
  isologit_cuda_gate_request good = {};
  good.gate = good.up = tensor();
  good.alpha = good.limit = 1;
  good.kind = ISOLOGIT_CLAMPED_SWISH;
  good.y = {memory, 24, 8};
  good.status = reinterpret_cast<std::uint32_t*>(memory);
  expect_named<isologit_cuda_gate_request>(
      good, {
                {"kind is 4", [](auto& r) { r.kind = 4; }},
                {"gate is [2, 3, -8]", [](auto& r) { r.gate.dim = -8; }},
                {"up is [1, 3, 8]", [](auto& r) { r.up.tokens = 1; }},
                {"alpha is 0", [](auto& r) { r.alpha = 0; }},
                {"limit is nan", [](auto& r) { r.limit = std::numeric_limits<float>::quiet_NaN(); }},
                {"status is NULL", [](auto& r) { r.status = nullptr; }},
                {"status is NULL",
                 [](auto& r) {
                   r.kind = ISOLOGIT_SILU;
                   r.gate.dtype = r.up.dtype = ISOLOGIT_F32;
                   r.status = nullptr;
                 }},
            });
  good.status = nullptr;
  good.alpha = good.limit = 0;
  for (const int kind : {ISOLOGIT_SILU, ISOLOGIT_GELU_TANH, ISOLOGIT_RELU_SQUARED}) {
    good.kind = kind;
    EXPECT_EQ(check_request(good), "");
  }
}

TEST(CudaForwardRequest, MistakesInRotary) {
  isologit_cuda_rotary_request good = {};
  good.x = tensor();
  good.positions = reinterpret_cast<const std::int64_t*>(memory);
  good.frequencies = reinterpret_cast<const float*>(memory);
  good.frequency_count = 4;
  good.factor = 1;
  good.y = {memory, 24, 8};
  good.status = reinterpret_cast<std::uint32_t*>(memory);
  expect_named<isologit_cuda_rotary_request>(
      good, {
                {"frequency_count is 5; it must be from 1 to half of 8", [](auto& r) { r.frequency_count = 5; }},
                {"frequency_count is 0", [](auto& r) { r.frequency_count = 0; }},
                {"layout is 2", [](auto& r) { r.layout = 2; }},
                {"factor is inf", [](auto& r) { r.factor = std::numeric_limits<float>::infinity(); }},
                {"positions is NULL", [](auto& r) { r.positions = nullptr; }},
                {"frequencies is NULL", [](auto& r) { r.frequencies = nullptr; }},
                {"status is NULL", [](auto& r) { r.status = nullptr; }},
            });
}

}  // namespace
}  // namespace isologit::detail::cuda
