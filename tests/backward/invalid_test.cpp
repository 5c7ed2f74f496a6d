// Requests that are refused, with messages that name the argument.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

class Invalid : public ::testing::Test {
 protected:
  Invalid() {
    request = problem.request();
    request.dhidden = {dhidden.data(), DType::f32, 5, false};
    request.dweight = {dweight.data(), DType::f32, 5, false};
    request.dbias = {dbias.data(), DType::f32, 0, false};
  }

  void expect_refused(const std::string& name, StatusCode code = StatusCode::invalid_argument) {
    const auto result = backward(head, request, options);
    ASSERT_FALSE(result.has_value()) << name;
    EXPECT_EQ(result.error().code, code);
    EXPECT_EQ(result.error().message.rfind(name, 0), 0U) << result.error().message;
  }

  Problem problem = make_problem({3, 8, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 1);
  std::vector<float> dhidden = std::vector<float>(15);
  std::vector<float> dweight = std::vector<float>(40);
  std::vector<float> dbias = std::vector<float>(8);
  std::vector<float> d_logits = std::vector<float>(24, 1.0F);
  Head head = problem.head();
  BackwardRequest request;
  BackwardOptions options;
};

TEST_F(Invalid, NothingIsWrongToBeginWith) { EXPECT_TRUE(backward(head, request, options).has_value()); }

TEST_F(Invalid, Shapes) {
  request.hidden.cols = 4;
  expect_refused("hidden");
  request.hidden.cols = 5;
  head.vocab_size = 9;
  expect_refused("vocab_size");
}

TEST_F(Invalid, AShapeOfALowRankAddition) {
  const std::vector<float> factor(8, 1.0F);
  head.lora = {{factor.data(), DType::f32, 1, 4, 4}, {factor.data(), DType::f32, 8, 1, 1}, 1.0};
  expect_refused("lora: a of shape [1, 4]");
}

TEST_F(Invalid, Ids) {
  problem.ids[1] = 8;
  expect_refused("token_ids[1]");
  problem.ids[1] = -1;
  expect_refused("token_ids[1]");
  problem.ids[1] = 0;
  request.token_ids = std::span(problem.ids).first(2);
  expect_refused("token_ids");
  request.token_ids = {};
  expect_refused("token_ids");
  request.token_ids = problem.ids;
  request.ids_per_row = 0;
  expect_refused("ids_per_row");
  request.ids_per_row = 3;
  expect_refused("token_ids");
}

TEST_F(Invalid, Temperatures) {
  const std::vector<float> bad{1.0F, 0.0F, 1.0F};
  request.temperatures = bad;
  expect_refused("temperatures[1]");
}

TEST_F(Invalid, UpstreamOfLogits) {
  request.d_logits = {d_logits.data(), DType::f32, 3, 8, 8};
  expect_refused("d_logits");
  request.d_logprobs = request.d_lse = request.d_entropy = nullptr;
  EXPECT_TRUE(backward(head, request, options).has_value());
  request.d_logits.dtype = DType::bf16;
  expect_refused("d_logits");
  request.d_logits.dtype = DType::f32;
  request.d_logits.cols = 7;
  expect_refused("d_logits");
}

TEST_F(Invalid, Supports) {
  request.support.last_id = 9;
  expect_refused("support: range [0, 9)");
  request.support = {};
  const std::vector<std::int64_t> offsets{0, 1, 1, 2};
  std::vector<std::int64_t> ids{3, 8};
  request.support.kept = {offsets, ids};
  expect_refused("kept ids: row 2 has id 8");
  ids[1] = 7;
  EXPECT_TRUE(backward(head, request, options).has_value());
  request.dbias.data = ids.data();
  expect_refused("dbias");
  request.dbias.data = dbias.data();
  request.d_logprobs = request.d_lse = request.d_entropy = nullptr;
  request.d_logits = {d_logits.data(), DType::f32, 3, 8, 8};
  expect_refused("d_logits: given together with a support");
}

TEST_F(Invalid, Outputs) {
  request.dhidden.row_stride = 4;
  expect_refused("dhidden");
  request.dhidden.row_stride = std::int64_t{1} << 61;
  expect_refused("dhidden");
  request.dhidden.row_stride = 5;
  request.dweight.row_stride = 0;
  expect_refused("dweight");
  request.dweight.row_stride = 5;
  request.dweight.data = dhidden.data() + 10;
  expect_refused("dhidden");
  request.dweight.data = problem.data.weight.data();
  expect_refused("dweight");
  request.dweight.data = dweight.data();
  request.dbias.data = problem.d_lse.data();
  expect_refused("dbias");
}

TEST_F(Invalid, Options) {
  options.threads = -1;
  expect_refused("threads");
  options.threads = 0;
  options.kernel = "abacus";
  expect_refused("kernel", StatusCode::unsupported);
}

}  // namespace
}  // namespace isologit::test
