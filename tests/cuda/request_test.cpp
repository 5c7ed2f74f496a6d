// Requests that cannot be served are refused before anything is launched, and told why.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "cuda/backward.cuh"
#include "cuda/check_request.hpp"

namespace isologit::detail::cuda {
namespace {

alignas(16) char memory[64];  // never read

isologit_cuda_logits_request good() {
  isologit_cuda_logits_request r = {};
  r.struct_size = sizeof r;
  r.hidden = {memory, 2, 8, 8, ISOLOGIT_BF16};
  r.weight = {memory, 3, 8, 8, ISOLOGIT_F32};
  r.bias = {memory, 3, ISOLOGIT_F16};
  r.vocab_size = 3;
  r.logits = memory;
  r.logits_dtype = ISOLOGIT_F32;
  r.logits_stride = 3;
  r.workspace = memory;
  r.workspace_size = static_cast<size_t>(workspace_of(2, 8, kBf16).bytes);
  return r;
}

TEST(CudaRequest, AGoodOneIsServed) {
  EXPECT_EQ(check_request(good()), "");
  auto nothing = good();
  nothing.hidden = {nullptr, 0, 8, 8, ISOLOGIT_BF16};
  nothing.logits = nullptr;
  EXPECT_EQ(check_request(nothing), "");
}

TEST(CudaRequest, WgmmaIsOfOneCapability) {
  EXPECT_EQ(check_wgmma(1, 9, 0), "");
  EXPECT_EQ(check_wgmma(1, 8, 9), "device 1 has compute capability 8.9; ISOLOGIT_CUDA_WGMMA needs 9.0");
  EXPECT_EQ(check_wgmma(0, 10, 0), "device 0 has compute capability 10.0; ISOLOGIT_CUDA_WGMMA needs 9.0");
  isologit_cuda_logits_request r = good();
  r.weight.dtype = ISOLOGIT_BF16;
  for (const bool wgmma : {false, true}) {
    for (const bool fast : {false, true}) {
      r.arithmetic = (fast ? ISOLOGIT_FAST : ISOLOGIT_EXACT) + (wgmma ? ISOLOGIT_CUDA_WGMMA : 0);
      EXPECT_EQ(check_request(r), "");
      EXPECT_EQ(kernels_request(r).fast, fast);
      EXPECT_EQ(kernels_request(r).wgmma, wgmma);
    }
  }
}

// Each of them asks for logits in f32; only after a softcap something may be left open.
TEST(CudaRequest, TransformsOfLogits) {
  EXPECT_FALSE(kernels_request(good()).transforms.are_any());
  struct Step {
    bool may_be_open;
    std::function<void(isologit_cuda_logits_request&)> ask;
  };
  const Step steps[] = {{true,
                         [](auto& r) {
                           r.has_softcap = 1;
                           r.softcap = 30.0F;
                         }},
                        {false,
                         [](auto& r) {
                           r.scale_kind = ISOLOGIT_SCALE_DIVIDE;
                           r.scale = 2.0F;
                         }},
                        {false, [](auto& r) {
                           r.temperatures = reinterpret_cast<float*>(memory);
                           r.temperature_count = 1;
                         }}};
  for (const Step& step : steps) {
    auto r = good();
    step.ask(r);
    EXPECT_EQ(check_request(r), step.may_be_open ? "status is NULL" : "");
    r.status = reinterpret_cast<std::uint32_t*>(memory);
    EXPECT_EQ(check_request(r), "");
    EXPECT_TRUE(kernels_request(r).transforms.are_any());
    EXPECT_EQ(static_cast<void*>(kernels_request(r).status), memory);
    r.status = reinterpret_cast<std::uint32_t*>(memory + 2);
    EXPECT_EQ(check_request(r).substr(0, 34), "status does not lie at a multiple ");
    r.logits_dtype = ISOLOGIT_F16;
    EXPECT_EQ(check_request(r).substr(0, 17), "logits_dtype is 1");
  }
}

TEST(CudaRequest, EveryMistakeIsNamed) {
  struct Mistake {
    std::string expected;
    std::function<void(isologit_cuda_logits_request&)> make;
  };
  const Mistake mistakes[] = {
      {"hidden.dtype is 3", [](auto& r) { r.hidden.dtype = 3; }},
      {"weight.dtype is -1", [](auto& r) { r.weight.dtype = -1; }},
      {"hidden.data is NULL", [](auto& r) { r.hidden.data = nullptr; }},
      {"hidden.data does not lie at a multiple of 2", [](auto& r) { r.hidden.data = memory + 1; }},
      {"weight.data does not lie at a multiple of 4", [](auto& r) { r.weight.data = memory + 2; }},
      {"hidden is [2, 0]", [](auto& r) { r.hidden.cols = 0; }},
      {"hidden is [-1, 8]", [](auto& r) { r.hidden.rows = -1; }},
      {"weight has 9 columns, but hidden has 8", [](auto& r) { r.weight.cols = 9; }},
      {"hidden has 1048577 columns", [](auto& r) { r.hidden.cols = r.weight.cols = kMostDepth + 1; }},
      {"vocab_size is 4", [](auto& r) { r.vocab_size = 4; }},
      {"vocab_size is 0", [](auto& r) { r.vocab_size = 0; }},
      {"vocab_size is 4194241; the CUDA kernels take at most 4194240",
       [](auto& r) { r.vocab_size = r.weight.rows = r.bias.size = 4194241; }},
      {"bias has 2 elements, but weight has 3 rows", [](auto& r) { r.bias.size = 2; }},
      {"bias.dtype is 7", [](auto& r) { r.bias.dtype = 7; }},
      {"logits_dtype is 4, which is none of", [](auto& r) { r.logits_dtype = 4; }},
      {"logits does not lie at a multiple of 4", [](auto& r) { r.logits = memory + 2; }},
      {"arithmetic is 4", [](auto& r) { r.arithmetic = 4; }},
      {"arithmetic is -1", [](auto& r) { r.arithmetic = -1; }},
      {"hidden.dtype is 0 and weight.dtype is 2; fast arithmetic", [](auto& r) { r.arithmetic = ISOLOGIT_FAST; }},
      {"logits_dtype is 0; logits of fast arithmetic or after transforms",
       [](auto& r) {
         r.arithmetic = ISOLOGIT_FAST;
         r.weight.dtype = ISOLOGIT_BF16;
         r.logits_dtype = ISOLOGIT_BF16;
       }},
      {"softcap is 0.0", [](auto& r) { r.has_softcap = 1; }},
      {"scale_kind is 3", [](auto& r) { r.scale_kind = 3; }},
      {"transform_order is 2", [](auto& r) { r.transform_order = 2; }},
      {"temperature_count is 3", [](auto& r) { r.temperature_count = 3; }},
      {"temperatures is NULL", [](auto& r) { r.temperature_count = 2; }},
      {"logits is NULL", [](auto& r) { r.logits = nullptr; }},
      {"logits_stride is 2, less than vocab_size, 3", [](auto& r) { r.logits_stride = 2; }},
      {"workspace does not lie at a multiple of 16", [](auto& r) { r.workspace = memory + 8; }},
      {"workspace_size is 17407; isologit_cuda_logits_workspace says 17408", [](auto& r) { --r.workspace_size; }},
  };
  for (const auto& mistake : mistakes) {
    auto request = good();
    mistake.make(request);
    const std::string said = check_request(request);
    EXPECT_EQ(said.substr(0, mistake.expected.size()), mistake.expected);
  }
}

isologit_cuda_score_request good_score() {
  const auto logits = good();
  isologit_cuda_score_request r = {};
  r.struct_size = sizeof r;
  r.hidden = logits.hidden;
  r.weight = logits.weight;
  r.bias = logits.bias;
  r.vocab_size = logits.vocab_size;
  r.has_softcap = 1;
  r.softcap = 30.0F;
  r.scale_kind = ISOLOGIT_SCALE_MULTIPLY;
  r.scale = -2.0F;
  r.temperatures = reinterpret_cast<float*>(memory);
  r.temperature_count = 2;
  r.token_ids = reinterpret_cast<std::int64_t*>(memory);
  r.ids_per_row = 1;
  r.logprobs = reinterpret_cast<float*>(memory);
  r.status = reinterpret_cast<std::uint32_t*>(memory);
  r.workspace = memory;
  r.rank = reinterpret_cast<std::int64_t*>(memory);
  r.top_k = 2;
  r.top_k_ids = reinterpret_cast<std::int64_t*>(memory);
  r.top_k_logprobs = reinterpret_cast<float*>(memory);
  r.workspace_size = static_cast<std::size_t>(score_plan(kernels_request(r)).bytes);
  return r;
}

TEST(CudaRequest, EveryMistakeOfAScoreIsNamed) {
  EXPECT_EQ(check_request(good_score()), "");
  struct Mistake {
    std::string expected;
    std::function<void(isologit_cuda_score_request&)> make;
  };
  const Mistake mistakes[] = {
      {"hidden.dtype is 3", [](auto& r) { r.hidden.dtype = 3; }},
      {"vocab_size is 4", [](auto& r) { r.vocab_size = 4; }},
      {"softcap is 0.0", [](auto& r) { r.softcap = 0; }},
      {"scale_kind is 3", [](auto& r) { r.scale_kind = 3; }},
      {"scale is 0.0", [](auto& r) { r.scale = 0; }},
      {"scale is -2.000000; a divisor", [](auto& r) { r.scale_kind = ISOLOGIT_SCALE_DIVIDE; }},
      {"transform_order is 2", [](auto& r) { r.transform_order = 2; }},
      {"temperature_count is 3", [](auto& r) { r.temperature_count = 3; }},
      {"temperatures is NULL", [](auto& r) { r.temperatures = nullptr; }},
      {"ids_per_row is 4097", [](auto& r) { r.ids_per_row = 4097; }},
      {"token_ids is NULL and ids_per_row is 1", [](auto& r) { r.token_ids = nullptr; }},
      {"top_k is 1025; it must be from 0 to 1024", [](auto& r) { r.top_k = 1025; }},
      {"top_k is 0; top_k_ids and", [](auto& r) { r.top_k = 0; }},
      {"top_k is 2; top_k_ids and", [](auto& r) { r.top_k_logprobs = nullptr; }},
      {"logprobs, chosen_logits and rank need token_ids",
       [](auto& r) {
         r.token_ids = nullptr;
         r.ids_per_row = 0;
       }},
      {"status is NULL", [](auto& r) { r.status = nullptr; }},
      {"workspace does not lie at a multiple of 16", [](auto& r) { r.workspace = memory + 8; }},
      {"workspace_size is ", [](auto& r) { --r.workspace_size; }},
  };
  for (const auto& mistake : mistakes) {
    auto request = good_score();
    mistake.make(request);
    EXPECT_EQ(check_request(request).substr(0, mistake.expected.size()), mistake.expected);
  }
}

TEST(CudaRequest, EveryMistakeOfASampleIsNamed) {
  const auto score = good_score();
  isologit_cuda_sample_request good = {};
  good.struct_size = sizeof good;
  good.hidden = score.hidden;
  good.weight = score.weight;
  good.bias = score.bias;
  good.vocab_size = score.vocab_size;
  good.temperatures = good.min_p = good.top_p = reinterpret_cast<float*>(memory);
  good.temperature_count = good.min_p_count = good.top_p_count = 2;
  good.seeds = good.sequence_ids = reinterpret_cast<std::uint64_t*>(memory);
  good.seed_count = good.sequence_id_count = good.position_count = good.top_k_count = 1;
  good.positions = reinterpret_cast<std::uint32_t*>(memory);
  good.top_k = reinterpret_cast<std::int64_t*>(memory);
  good.status = score.status;
  good.workspace = memory;
  good.workspace_size = static_cast<std::size_t>(sample_plan(kernels_request(good)).bytes);
  EXPECT_EQ(check_request(good), "");
  auto uncut = good;
  uncut.min_p_count = uncut.top_k_count = uncut.top_p_count = uncut.temperature_count = 0;
  EXPECT_EQ(check_request(uncut), "");
  EXPECT_FALSE(kernels_request(uncut).cuts());
  EXPECT_TRUE(kernels_request(good).cuts());
  auto nothing = good;
  nothing.hidden.rows = 0;
  nothing.temperature_count = nothing.min_p_count = nothing.top_p_count = 1;
  nothing.status = nullptr;
  EXPECT_EQ(check_request(nothing), "");
  struct Mistake {
    std::string expected;
    std::function<void(isologit_cuda_sample_request&)> make;
  };
  const Mistake mistakes[] = {
      {"hidden.dtype is 3", [](auto& r) { r.hidden.dtype = 3; }},
      {"scale_kind is 3", [](auto& r) { r.scale_kind = 3; }},
      {"temperature_count is 3; it must be 0, 1 or the number of rows, 2", [](auto& r) { r.temperature_count = 3; }},
      {"seed_count is 0; it must be 1 or the number of rows, 2", [](auto& r) { r.seed_count = 0; }},
      {"seeds is NULL", [](auto& r) { r.seeds = nullptr; }},
      {"sequence_id_count is 3", [](auto& r) { r.sequence_id_count = 3; }},
      {"sequence_ids does not lie at a multiple of 8",
       [](auto& r) { r.sequence_ids = reinterpret_cast<std::uint64_t*>(memory + 4); }},
      {"position_count is 0", [](auto& r) { r.position_count = 0; }},
      {"positions is NULL", [](auto& r) { r.positions = nullptr; }},
      {"min_p_count is 3; it must be 0, 1 or", [](auto& r) { r.min_p_count = 3; }},
      {"top_k is NULL", [](auto& r) { r.top_k = nullptr; }},
      {"top_p_count is -1", [](auto& r) { r.top_p_count = -1; }},
      {"status is NULL", [](auto& r) { r.status = nullptr; }},
      {"workspace does not lie at a multiple of 16", [](auto& r) { r.workspace = memory + 8; }},
      {"workspace_size is ", [](auto& r) { --r.workspace_size; }},
  };
  for (const auto& mistake : mistakes) {
    auto request = good;
    mistake.make(request);
    EXPECT_EQ(check_request(request).substr(0, mistake.expected.size()), mistake.expected);
  }
  // Whatever the rows, operands of up to 65536 columns need no more than 256 MiB.
  for (const std::int64_t vocab : {1, 151936, 4194240}) {
    auto large = good;
    large.hidden = {memory, 1 << 20, 65536, 65536, ISOLOGIT_F32};
    large.weight = {memory, vocab, 65536, 65536, ISOLOGIT_BF16};
    large.vocab_size = vocab;
    EXPECT_LE(sample_plan(kernels_request(large)).bytes, std::int64_t{1} << 28) << vocab;
  }
}

isologit_cuda_backward_request good_backward() {
  const auto score = good_score();
  isologit_cuda_backward_request r = {};
  r.struct_size = sizeof r;
  r.hidden = score.hidden;
  r.weight = score.weight;
  r.bias = score.bias;
  r.vocab_size = score.vocab_size;
  r.token_ids = score.token_ids;
  r.ids_per_row = 1;
  r.d_logprobs = score.logprobs;
  r.dhidden = r.dweight = {memory, 8, ISOLOGIT_BF16, 1};
  r.dbias = {memory, 0, ISOLOGIT_F32, 0};
  r.status = score.status;
  r.workspace = memory;
  r.workspace_size = static_cast<std::size_t>(backward_plan(2, 8, kBf16, 3, false).bytes);
  return r;
}

TEST(CudaRequest, EveryMistakeOfABackwardIsNamed) {
  EXPECT_EQ(check_request(good_backward()), "");
  struct Mistake {
    std::string expected;
    std::function<void(isologit_cuda_backward_request&)> make;
  };
  const Mistake mistakes[] = {
      {"hidden.dtype is 3", [](auto& r) { r.hidden.dtype = 3; }},
      {"scale_kind is 3", [](auto& r) { r.scale_kind = 3; }},
      {"token_ids is NULL and ids_per_row is 1", [](auto& r) { r.token_ids = nullptr; }},
      {"d_logprobs needs token_ids",
       [](auto& r) {
         r.token_ids = nullptr;
         r.ids_per_row = 0;
       }},
      {"dhidden.dtype is 3", [](auto& r) { r.dhidden.dtype = 3; }},
      {"dweight.row_stride is 7, less than the 8 columns", [](auto& r) { r.dweight.row_stride = 7; }},
      {"dweight.data does not lie at a multiple of 2", [](auto& r) { r.dweight.data = memory + 1; }},
      {"dbias.accumulate is 1; expected 0", [](auto& r) { r.dbias.accumulate = 1; }},
      {"hidden has 0 rows", [](auto& r) { r.hidden.rows = 0; }},
      {"status is NULL", [](auto& r) { r.status = nullptr; }},
      {"workspace_size is ", [](auto& r) { --r.workspace_size; }},
  };
  for (const auto& mistake : mistakes) {
    auto request = good_backward();
    mistake.make(request);
    EXPECT_EQ(check_request(request).substr(0, mistake.expected.size()), mistake.expected);
  }
}

// The kernels are given the support that a request says, each of its parts.
TEST(CudaRequest, ASupportReachesTheKernels) {
  std::int64_t lists[4] = {};
  const auto expect = [&](auto request) {
    request.mask = reinterpret_cast<std::uint8_t*>(memory);
    request.mask_row_stride = 5;
    request.kept = {&lists[0], &lists[1]};
    request.banned = {&lists[2], &lists[3]};
    EXPECT_EQ(check_request(request), "");
    const Support support = kernels_request(request).support;
    EXPECT_EQ(support.mask, request.mask);
    EXPECT_EQ(support.mask_stride, 5);
    EXPECT_EQ(support.kept.offsets, &lists[0]);
    EXPECT_EQ(support.kept.ids, &lists[1]);
    EXPECT_EQ(support.banned.offsets, &lists[2]);
    EXPECT_EQ(support.banned.ids, &lists[3]);
  };
  expect(good_backward());
  auto score = good_score();
  score.summaries = reinterpret_cast<double*>(memory);
  expect(score);
}

TEST(CudaRequest, EveryMistakeOfGivenLogitsIsNamed) {
  isologit_cuda_given_request good = {};
  good.struct_size = sizeof good;
  good.logits = {memory, 3, 5, 5, ISOLOGIT_BF16};
  good.temperatures = reinterpret_cast<float*>(memory);
  good.temperature_count = 3;
  good.token_ids = reinterpret_cast<std::int64_t*>(memory);
  good.ids_per_row = 2;
  good.logprobs = good.log_softmax = reinterpret_cast<float*>(memory);
  good.log_softmax_stride = 5;
  good.status = reinterpret_cast<std::uint32_t*>(memory);
  good.workspace = memory;
  good.workspace_size = static_cast<std::size_t>(given_plan(3, 5, 2).bytes);
  EXPECT_EQ(check_request(good), "");
  struct Mistake {
    std::string expected;
    std::function<void(isologit_cuda_given_request&)> make;
  };
  const Mistake mistakes[] = {
      {"logits.dtype is 3", [](auto& r) { r.logits.dtype = 3; }},
      {"logits is [3, 0]", [](auto& r) { r.logits.cols = 0; }},
      {"vocab_size is 4194241", [](auto& r) { r.logits.cols = 4194241; }},
      {"temperature_count is 2; it must be 0, 1 or the number of rows, 3", [](auto& r) { r.temperature_count = 2; }},
      {"ids_per_row is 4097", [](auto& r) { r.ids_per_row = 4097; }},
      {"token_ids is given and ids_per_row is 0", [](auto& r) { r.ids_per_row = 0; }},
      {"logprobs needs token_ids",
       [](auto& r) {
         r.token_ids = nullptr;
         r.ids_per_row = 0;
       }},
      {"log_softmax_stride is 4, less than", [](auto& r) { r.log_softmax_stride = 4; }},
      {"status is NULL", [](auto& r) { r.status = nullptr; }},
      {"workspace_size is ", [](auto& r) { --r.workspace_size; }},
  };
  for (const auto& mistake : mistakes) {
    auto request = good;
    mistake.make(request);
    EXPECT_EQ(check_request(request).substr(0, mistake.expected.size()), mistake.expected);
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
