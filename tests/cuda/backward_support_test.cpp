// Gradients over a support by the CUDA kernels, compiled for the host, against the oracle: however the support is said.
#include "gradients.hpp"

namespace isologit::detail::cuda {
namespace {

enum class Said { mask, shared_mask, kept, banned };
constexpr Said kWays[] = {Said::mask, Said::shared_mask, Said::kept, Said::banned};

std::string name_of(Said how) {
  return std::array<const char*, 4>{"mask", "shared mask", "kept", "banned"}[static_cast<std::size_t>(how)];
}

void say(Problem& problem, const std::vector<std::uint8_t>& mask, Said how) {
  if (how == Said::mask || how == Said::shared_mask) {
    problem.set_mask_bytes(mask, how == Said::shared_mask);
  } else {
    problem.set_mask(mask, how == Said::banned);
  }
}

// From the summaries of a forward pass too, which says no entropy's.
void expect_both(const Problem& problem, const std::string& what, Asked asked = {}) {
  expect_bounds(problem, what, asked);
  Problem without = problem;
  without.d_entropy.clear();
  asked.kept_summaries = true;
  expect_bounds(without, what + ", kept", asked);
}

TEST(CudaBackwardSupport, EveryFamilyHoweverSaid) {
  for (const DotFamily family : oracle::dot_families) {
    for (const Said how : kWays) {
      Problem problem = test::make_problem({7, 60, 19, DType::bf16, DType::bf16, DType::bf16}, family, 73, 3);
      say(problem, test::random_mask(problem, 82), how);
      problem.d_mean_logits.assign(7, 0.25F);
      // Few ids whose logits are millions apart: with an upstream of the entropy the oracle would need as many bits.
      if (family == DotFamily::near_tie || family == DotFamily::wide_exponents || family == DotFamily::overflow_limit) {
        problem.d_entropy.clear();
      }
      expect_both(problem, std::string(oracle::name_of(family)) + ", " + name_of(how));
    }
  }
}

TEST(CudaBackwardSupport, EveryType) {
  for (const DType type : {DType::f16, DType::f32}) {
    Problem problem = test::make_problem({7, 60, 19, type, type, {}}, DotFamily::specials, 83, 3);
    say(problem, test::random_mask(problem, 84), Said::kept);
    expect_both(problem, std::to_string(static_cast<int>(type)));
  }
}

TEST(CudaBackwardSupport, OverManyTiles) {
  Problem many_rows = test::make_problem({70, 300, 40}, DotFamily::normal, 3, 2);
  for (const Said how : {Said::mask, Said::kept}) {
    say(many_rows, test::random_mask(many_rows, 5), how);
    expect_bounds(many_rows, "rows, " + name_of(how));
  }
  Problem many_ids = test::make_problem({3, 2300, 72}, DotFamily::outliers, 4, 2);
  for (const Said how : {Said::shared_mask, Said::banned}) {
    say(many_ids, test::random_mask(many_ids, 6), how);
    many_ids.d_mean_logits = {1.0F, -0.5F, 3.0F};
    expect_bounds(many_ids, "ids, " + name_of(how));
  }
}

TEST(CudaBackwardSupport, ThroughTransforms) {
  Problem problem = test::make_problem({6, 80, 10, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 85, 3);
  problem.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
  problem.d_mean_logits = {0.0F, 1.0F, -0.5F, 0.0F, 3.0F, 1e-6F};
  say(problem, test::random_mask(problem, 86), Said::mask);
  for (const isologit::Transforms& transforms :
       {isologit::Transforms{true, 1.5F, ScaleKind::divide, 3.3F}, {false, 0.0F, ScaleKind::multiply, -0.37F}}) {
    problem.transforms = transforms;
    expect_bounds(problem, "cap " + std::to_string(transforms.softcap));
  }
}

TEST(CudaBackwardSupport, SmallOnes) {
  Problem problem = test::make_problem({6, 12, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 89);
  problem.ids = {3, 3, 3, 3, 3, 3};
  problem.d_mean_logits.assign(6, -0.75F);
  const std::vector<std::uint8_t> mask = test::small_supports();
  for (const Said how : {Said::mask, Said::kept, Said::banned}) {
    say(problem, mask, how);
    expect_both(problem, "small, " + name_of(how));
    const Found found = gradients_by_kernels(problem);
    for (std::size_t k = 0; k < 5; ++k) EXPECT_EQ(oracle::bits_of(static_cast<float>(found.dhidden[k])), 0U);
  }
}

// A mask together with both lists is what all three leave.
TEST(CudaBackwardSupport, AllAtOnce) {
  Problem problem = test::make_problem({9, 200, 24}, DotFamily::normal, 90, 2);
  const auto kept = test::random_mask(problem, 91), banned = test::random_mask(problem, 92);
  auto mask = test::random_mask(problem, 93);
  for (auto& in : mask) in = in == 0 ? 2 : 0;
  Problem other = problem;
  other.set_mask(banned, false);  // the lists of what is banned
  problem.set_mask(kept, false);
  problem.support.banned = {other.lists[0], other.lists[1]};
  problem.support.mask = {mask.data(), 200};
  for (std::size_t i = 0; i < mask.size(); ++i)
    problem.mask[i] = kept[i] != 0 && banned[i] == 0 && mask[i] != 0 ? 1 : 0;
  problem.d_mean_logits.assign(9, 2.0F);
  expect_both(problem, "all at once");
}

// What is outside decides nothing, were it the greatest, infinite or NaN, and has a gradient of exactly 0.
TEST(CudaBackwardSupport, WhatIsOutsideDoesNotCount) {
  for (const float odd : {3000.0F, HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
    Problem problem = test::make_problem({4, 20, 6, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 94, 2);
    problem.ids = {4, 5, 5, 5, 6, 7, 5, 8};  // some outside
    oracle::encode(DType::f32, problem.data.bias.data(), 5, odd);
    problem.data.bias_values[5] = static_cast<double>(odd);
    std::vector<std::uint8_t> mask(4 * 20, 1);
    for (std::size_t n = 0; n < 4; ++n) mask[n * 20 + 5] = 0;
    for (const Said how : kWays) {
      say(problem, mask, how);
      expect_both(problem, std::to_string(odd) + ", " + name_of(how));
      const Found found = gradients_by_kernels(problem);
      EXPECT_EQ(oracle::bits_of(static_cast<float>(found.dbias[5])), 0U);
      for (std::size_t k = 0; k < 6; ++k) EXPECT_EQ(oracle::bits_of(static_cast<float>(found.dweight[30 + k])), 0U);
      EXPECT_TRUE(std::isfinite(found.dhidden[0]));
    }
    mask[2 * 20 + 5] = 1;  // and in one row it counts
    say(problem, mask, Said::banned);
    expect_both(problem, std::to_string(odd) + ", in one row");
  }
}

TEST(CudaBackwardSupport, BlocksShowInNoBit) {
  Problem problem = test::make_problem({70, 300, 24, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 6);
  problem.d_mean_logits.assign(70, 0.5F);
  const Found everything = gradients_by_kernels(problem);
  for (const Said how : {Said::mask, Said::kept}) {
    say(problem, test::random_mask(problem, 95), how);
    const Found whole = gradients_by_kernels(problem);
    expect_same(whole, gradients_by_kernels(problem, {.most_columns = 64}), "columns");
    expect_same(whole, gradients_by_kernels(problem, {.most_rows = 64, .most_columns = 192}), "both");
    say(problem, std::vector<std::uint8_t>(70 * 300, 1), how);
    expect_same(everything, gradients_by_kernels(problem), "a support of everything, " + name_of(how));
  }
}

TEST(CudaBackwardSupport, OfFastLogits) {
  Problem problem = test::make_problem({20, 300, 72, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 12, 2);
  HostLauncher launcher;
  problem.z0 = logits_by(launcher, problem.data, {}, DType::f32, true);
  say(problem, test::random_mask(problem, 96), Said::mask);
  expect_both(problem, "fast", {.fast = true});
}

// Over all of the support, of however small a share, and nothing outside.
TEST(CudaBackwardSupport, UpstreamsThatAreNotFiniteMakeNan) {
  for (const int which : {0, 1, 2, 3}) {
    Problem problem = test::make_problem({1, 4, 1, DType::f32, DType::f32, {}}, DotFamily::normal, 1);
    const float weight[] = {1000.0F, 0.0F, 5.0F, 7.0F};
    problem.data.hidden_values = {1.0};
    oracle::encode(DType::f32, problem.data.hidden.data(), 0, 1.0F);
    for (std::size_t v = 0; v < 4; ++v) oracle::encode(DType::f32, problem.data.weight.data(), v, weight[v]);
    problem.data.weight_values.assign(weight, weight + 4);
    problem.ids = {0};
    problem.d_logprobs = {which == 0 ? HUGE_VALF : 1.0F};
    problem.d_lse = {which == 1 ? -HUGE_VALF : 1.0F};
    problem.d_entropy = {which == 2 ? std::nanf("") : 1.0F};
    problem.d_mean_logits = {which == 3 ? HUGE_VALF : 1.0F};
    say(problem, {1, 1, 0, 1}, Said::mask);
    const Found found = gradients_by_kernels(problem);
    for (const std::size_t v : {0, 1, 3}) EXPECT_TRUE(std::isnan(found.dbias[v])) << which << ' ' << v;
    EXPECT_EQ(found.dbias[2], 0.0) << which;
    EXPECT_EQ(found.status.open, 0U) << which;
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
