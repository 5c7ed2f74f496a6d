// Gradients of results whose logits were of fast arithmetic: the oracle's for the logits that the forward pass made.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "isologit/kernels.hpp"
#include "isologit/score.hpp"
#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

std::vector<std::string> fast_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable && kernel.arithmetic == Arithmetic::fast) names.push_back(kernel.name);
  }
  return names;
}

// The logits before all transforms.
std::vector<float> forward_logits(const Problem& problem, const std::string& kernel) {
  Head head = problem.head();
  head.transforms = {};
  std::vector<float> z0(static_cast<std::size_t>(problem.rows() * problem.vocab()));
  ScoreRequest request;
  request.hidden = problem.data.hidden_view();
  request.logits = {z0.data(), DType::f32, problem.vocab(), 0, problem.vocab()};
  ScoreOptions options;
  options.kernel = kernel;
  options.arithmetic = Arithmetic::fast;
  EXPECT_TRUE(score(head, request, options).has_value());
  return z0;
}

void expect_exact_for_fast_logits(Problem problem, const std::string& what) {
  for (const std::string& kernel : fast_kernels()) {
    problem.z0 = forward_logits(problem, kernel);
    BackwardOptions options;
    options.arithmetic = Arithmetic::exact;
    options.logits = Arithmetic::fast;
    options.kernel = kernel;
    options.threads = 2;
    expect_same_bits(run(problem, options), expect(problem).gradients, fmt::format("{} {}", what, kernel));
  }
}

TEST(FastLogits, EveryFamily) {
  ASSERT_FALSE(fast_kernels().empty());
  for (const DotFamily family : oracle::dot_families) {
    Problem problem = make_problem({5, 300, 11, DType::bf16, DType::bf16, DType::bf16}, family, 91);
    problem.temperatures = {0.7F};
    expect_exact_for_fast_logits(problem, std::string(name_of(family)));
  }
}

// They differ from exact ones, or this would prove nothing.
TEST(FastLogits, AreThoseOfTheForwardPass) {
  const Problem problem = make_problem({30, 500, 60, DType::f32, DType::f32, {}}, DotFamily::normal, 92);
  const std::vector<float> exact = expect(problem).gradients.dhidden;
  for (const std::string& kernel : fast_kernels()) {
    Problem fast = problem;
    fast.z0 = forward_logits(problem, kernel);
    EXPECT_NE(expect(fast).gradients.dhidden, exact);
  }
  expect_exact_for_fast_logits(problem, "long rows");
}

// Sums of finite numbers that overflow in f32 and come out as NaN.
TEST(FastLogits, UpstreamOfLogitsThatOverflow) {
  Problem problem = make_problem({3, 40, 9, DType::f32, DType::f32, {}}, DotFamily::normal, 93);
  for (std::size_t k = 0; k < 9; ++k) {
    const float x = k % 2 == 0 ? 3e38F : -3e38F;
    oracle::encode(DType::f32, problem.data.hidden.data(), 9 + k, x);
    problem.data.hidden_values[9 + k] = static_cast<double>(x);
  }
  problem.ids.clear();
  problem.d_logprobs.clear();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  problem.d_logits.assign(3 * 40, 0.5F);
  expect_exact_for_fast_logits(problem, "overflow");
}

TEST(FastLogits, NeedAKernelOfTheirArithmetic) {
  const Problem problem = make_problem({2, 10, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 94);
  BackwardOptions options;
  options.logits = Arithmetic::fast;
  options.kernel = "portable";
  const auto result = backward(problem.head(), problem.request(), options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, StatusCode::unsupported);
}

}  // namespace
}  // namespace isologit::test
