// Gradients of the mean logit equal the oracle's, bit for bit: alone, and beside the other upstreams.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

// Upstreams of the mean logit, and some of 0.
Problem with_mean(Problem problem, std::uint64_t seed) {
  oracle::Random random(seed);
  for (std::int64_t i = 0; i < problem.rows(); ++i) {
    problem.d_mean_logits.push_back(random.below(4) == 0 ? 0.0F : static_cast<float>(random.normal()));
  }
  return problem;
}

TEST(MeanLogits, EveryFamily) {
  for (const DotFamily family : oracle::dot_families) {
    for (const bool alone : {false, true}) {
      Problem problem = with_mean(make_problem({6, 41, 9, DType::bf16, DType::f32, DType::bf16}, family, 91, 3), 92);
      if (alone) {
        problem.d_logprobs.clear();
        problem.d_lse.clear();
        problem.d_entropy.clear();
      }
      expect_exact(problem, fmt::format("{} alone {}", name_of(family), alone));
    }
  }
}

TEST(MeanLogits, TransformsAndSupports) {
  for (const isologit::Transforms& transforms :
       {isologit::Transforms{true, 1.5F, ScaleKind::divide, 3.3F}, {false, 0.0F, ScaleKind::multiply, -0.37F}}) {
    for (const bool banned : {false, true}) {
      Problem problem =
          with_mean(make_problem({6, 300, 10, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 93, 2), 94);
      problem.transforms = transforms;
      problem.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
      std::vector<std::uint8_t> mask = random_mask(problem, 95);
      problem.set_mask(mask, banned);
      for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 300 >= 11 && i % 300 < 290 ? mask[i] : 0;
      problem.mask = mask;
      problem.support.first_id = 11;
      problem.support.last_id = 290;
      expect_exact(problem, fmt::format("cap {} banned {}", transforms.softcap, banned));
    }
  }
}

// d / |S| alone has no part that f64 could not round: thirds, and midpoints of two f32 such as (2^24 + 1) / 2.
TEST(MeanLogits, Quotients) {
  for (const std::int64_t vocab : {2, 3, 7, 1024, 1000}) {
    Problem problem = make_problem({9, vocab, 3, DType::bf16, DType::bf16, {}}, DotFamily::normal, 96);
    problem.d_logprobs.clear();
    problem.d_lse.clear();
    problem.d_entropy.clear();
    problem.d_mean_logits = {1.0F, -1.0F, 0x1.000002p0F, 0x1.fffffep-126F, 0x1p-149F, -0x1p-140F, 0x1.fffffep127F,
                             0.1F, -0.0F};
    expect_exact(problem, fmt::format("vocabulary {}", vocab));
  }
}

// What a smoothed loss asks for: all terms but the target's nearly cancel where the distribution is nearly even.
TEST(MeanLogits, EvenRowsCancel) {
  Problem problem = make_problem({4, 64, 2, DType::bf16, DType::bf16, {}}, DotFamily::normal, 97);
  for (std::size_t i = 0; i < problem.data.hidden.size(); i += 2) {
    oracle::encode(DType::bf16, problem.data.hidden.data(), i / 2, 0x1p-30F);
    problem.data.hidden_values[i / 2] = 0x1p-30;
  }
  problem.d_logprobs.assign(4, -0.875F);
  problem.d_lse.assign(4, 0.125F);
  problem.d_mean_logits.assign(4, -0.125F);
  problem.d_entropy.clear();
  expect_exact(problem, "smoothing");
  problem.d_logprobs.assign(4, 0.0F);
  expect_exact(problem, "nothing but the difference");
}

TEST(MeanLogits, FastKeepsItsBound) {
  const Problem problem =
      with_mean(make_problem({20, 500, 16, DType::bf16, DType::bf16, {}}, DotFamily::normal, 98), 99);
  const Expected expected = expect(problem);
  for (const std::string& kernel : runnable_kernels(false)) {
    BackwardOptions options;
    options.kernel = kernel;
    const Gradients actual = run(problem, options);
    for (std::int64_t n = 0; n < 20; ++n) {
      double allowed = 0, off = 0;
      for (std::int64_t v = 0; v < 500; ++v) {
        double squares = 0;
        for (std::int64_t k = 0; k < 16; ++k)
          squares += std::pow(problem.data.weight_values[static_cast<std::size_t>(v * 16 + k)], 2);
        allowed +=
            std::fabs(static_cast<double>(expected.dz[static_cast<std::size_t>(n * 500 + v)])) * std::sqrt(squares);
      }
      for (std::int64_t k = 0; k < 16; ++k) {
        const auto at = static_cast<std::size_t>(n * 16 + k);
        const auto exact = static_cast<double>(expected.gradients.dhidden[at]);
        off = std::hypot(off, static_cast<double>(actual.dhidden[at]) - exact - std::fabs(exact) * 0x1p-23);
      }
      EXPECT_LE(off, 0x1p-16 * allowed) << kernel << " row " << n;
    }
  }
}

TEST(MeanLogits, NotTogetherWithLogits) {
  Problem problem = with_mean(make_problem({2, 5, 3, DType::bf16, DType::bf16, {}}, DotFamily::normal, 1), 2);
  problem.d_logprobs.clear();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  problem.ids.clear();
  problem.d_logits.assign(10, 1.0F);
  std::vector<float> dhidden(6);
  BackwardRequest request = problem.request();
  request.dhidden = {dhidden.data(), DType::f32, 3, false};
  const auto refused = backward(problem.head(), request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("d_mean_logits"), std::string::npos);
}

}  // namespace
}  // namespace isologit::test
