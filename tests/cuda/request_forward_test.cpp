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

isologit_cuda_attention_request attention_request() {
  isologit_cuda_attention_request good = {};
  good.q = {memory, 5, 6, 8, 48, 8, ISOLOGIT_BF16};
  good.keys = good.values = {memory, 9, 2, 8, 16, 8, ISOLOGIT_BF16};
  good.sequences = 2;
  good.query_starts = good.key_counts = good.first_keys = reinterpret_cast<const std::int64_t*>(memory);
  good.scale = 1;
  good.y = {memory, 48, 8};
  good.status = reinterpret_cast<std::uint32_t*>(memory);
  return good;
}

TEST(CudaForwardRequest, MistakesInAttention) {
  const isologit_cuda_attention_request good = attention_request();
  const auto in_blocks = [](auto& r) {
    r.block_table = reinterpret_cast<const std::int32_t*>(memory);
    r.blocks_per_sequence = 3;
    r.block_size = 2;
  };
  expect_named<isologit_cuda_attention_request>(
      good,
      {
          {"q.dtype is ISOLOGIT_F32", [](auto& r) { r.q.dtype = ISOLOGIT_F32; }},
          {"q.dtype is 4", [](auto& r) { r.q.dtype = 4; }},
          {"keys and values are of dtypes 0 and 1, but q is of 0", [](auto& r) { r.values.dtype = ISOLOGIT_F16; }},
          {"keys and values are of dtypes 1 and 0", [](auto& r) { r.keys.dtype = ISOLOGIT_F16; }},
          {"q, keys and values are [5, 6, 8], [9, 2, 7] and [9, 2, 8]", [](auto& r) { r.keys.dim = 7; }},
          {"q, keys and values are [5, 6, 8], [9, 2, 8] and [8, 2, 8]", [](auto& r) { r.values.tokens = 8; }},
          {"q, keys and values are [5, 6, 8], [9, 2, 8] and [9, 1, 8]", [](auto& r) { r.values.heads = 1; }},
          {"q, keys and values are [5, 6, 8], [9, 4, 8]", [](auto& r) { r.keys.heads = r.values.heads = 4; }},
          {"keys and values are of 8 and 257 elements", [](auto& r) { r.values.dim = 257; }},
          {"keys and values are of 257 and 8 elements", [](auto& r) { r.q.dim = r.keys.dim = 257; }},
          {"sequences is 0, of 5 tokens", [](auto& r) { r.sequences = 0; }},
          {"sequences is 536870912", [](auto& r) { r.sequences = 536870912; }},
          {"keys is [2147483648, 1, 8]; the CUDA kernels take at most 2147483647",
           [](auto& r) {
             r.keys.heads = r.values.heads = 0;
             r.q.heads = 1;
             r.keys.tokens = r.values.tokens = std::int64_t{1} << 31;
           }},
          {"scale is 0", [](auto& r) { r.scale = 0; }},
          {"scale is inf", [](auto& r) { r.scale = std::numeric_limits<float>::infinity(); }},
          {"softcap is -1", [](auto& r) { r.softcap = -1; }},
          {"softcap is nan", [](auto& r) { r.softcap = std::numeric_limits<float>::quiet_NaN(); }},
          {"window is -1", [](auto& r) { r.window = -1; }},
          {"query_starts is NULL", [](auto& r) { r.query_starts = nullptr; }},
          {"key_counts is NULL", [](auto& r) { r.key_counts = nullptr; }},
          {"first_keys is NULL", [](auto& r) { r.first_keys = nullptr; }},
          {"sinks does not lie", [](auto& r) { r.sinks = reinterpret_cast<const float*>(memory + 2); }},
          {"y.data is NULL", [](auto& r) { r.y.data = nullptr; }},
          {"status is NULL", [](auto& r) { r.status = nullptr; }},
          {"a sequence has 3 blocks of 0",
           [&](auto& r) {
             in_blocks(r);
             r.block_size = 0;
           }},
          {"a sequence has 1073741824 blocks of 2",
           [&](auto& r) {
             in_blocks(r);
             r.blocks_per_sequence = std::int64_t{1} << 30;
           }},
      });
  isologit_cuda_attention_request paged = good;
  in_blocks(paged);
  paged.first_keys = nullptr;
  EXPECT_EQ(check_request(paged), "");
  paged = good;
  paged.q.tokens = 0;
  paged.query_starts = nullptr;
  paged.status = nullptr;
  EXPECT_EQ(check_request(paged), "");
}

// Of few rows and many keys the keys are split, and what splits leave takes a workspace.
TEST(CudaForwardRequest, WorkspaceOfAttention) {
  isologit_cuda_attention_request long_cache = attention_request();
  long_cache.keys.tokens = long_cache.values.tokens = 4096;
  long_cache.q.tokens = 1;
  EXPECT_EQ(check_request(long_cache), "workspace is NULL");
  const AttentionPlan plan = attention_plan(kernels_request(long_cache));
  EXPECT_EQ(plan.splits, 32);
  long_cache.workspace = memory;
  long_cache.workspace_size = static_cast<std::size_t>(plan.bytes) - 1;
  EXPECT_EQ(check_request(long_cache), "workspace_size is " + std::to_string(plan.bytes - 1) +
                                           "; isologit_cuda_attention_workspace says " + std::to_string(plan.bytes));
  ++long_cache.workspace_size;
  EXPECT_EQ(check_request(long_cache), "");
  for (const std::int64_t tokens : {1, 7, 100, 3000, 100000}) {
    for (const std::int64_t dim : {8, 256}) {
      for (const std::int64_t window : {0, 200}) {
        isologit_cuda_attention_request request = long_cache;
        request.q.tokens = tokens;
        request.q.dim = request.keys.dim = dim;
        request.keys.tokens = request.values.tokens = 1000000;
        request.window = window;
        const AttentionPlan own = attention_plan(kernels_request(request));
        EXPECT_LE(own.bytes, 1 << 24);
        EXPECT_TRUE(own.splits == 1 || own.blocks * own.splits <= kManyBlocks);
        EXPECT_TRUE(window == 0 || own.splits == 1);
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
