// Gradients over a support equal the oracle's, bit for bit, however the support is said.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

TEST(Support, EveryFamily) {
  for (const DotFamily family : oracle::dot_families) {
    for (const bool banned : {false, true}) {
      Problem problem = make_problem({7, 41, 9, DType::bf16, DType::bf16, DType::bf16}, family, 81, 3);
      problem.set_mask(random_mask(problem, 82), banned);
      // Few ids whose logits are millions apart: with an upstream of the entropy the oracle would need as many bits.
      if (family == DotFamily::near_tie || family == DotFamily::wide_exponents || family == DotFamily::overflow_limit) {
        problem.d_entropy.clear();
      }
      expect_exact(problem, fmt::format("{} banned {}", name_of(family), banned));
    }
  }
}

TEST(Support, AsBytes) {
  for (const bool shared : {false, true}) {
    for (const DotFamily family : {DotFamily::normal, DotFamily::specials, DotFamily::zero_rows}) {
      Problem problem = make_problem({7, 300, 9, DType::bf16, DType::bf16, DType::bf16}, family, 91, 3);
      problem.set_mask_bytes(random_mask(problem, 92), shared);
      problem.d_mean_logits.assign(7, 0.25F);
      expect_exact(problem, fmt::format("{} shared {}", name_of(family), shared));
    }
  }
}

TEST(Support, AcrossChunks) {
  Problem problem = make_problem({20, 700, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 83, 2);
  problem.set_mask(random_mask(problem, 84), false);
  expect_exact(problem, "many ids");
}

TEST(Support, Transforms) {
  const std::vector<float> each{1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
  for (const isologit::Transforms& transforms :
       {isologit::Transforms{true, 1.5F, ScaleKind::divide, 3.3F}, {false, 0.0F, ScaleKind::multiply, -0.37F}}) {
    Problem problem = make_problem({6, 40, 10, DType::bf16, DType::bf16, DType::f32}, DotFamily::specials, 85, 3);
    problem.transforms = transforms;
    problem.temperatures = each;
    problem.set_mask(random_mask(problem, 86), false);
    expect_exact(problem, fmt::format("cap {} scale {}", transforms.softcap, transforms.scale));
  }
}

TEST(Support, ARangeTogetherWithLists) {
  Problem problem = make_problem({5, 300, 9, DType::bf16, DType::bf16, {}}, DotFamily::normal, 87, 2);
  std::vector<std::uint8_t> mask = random_mask(problem, 88);
  problem.set_mask(mask, true);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 300 >= 7 && i % 300 < 270 ? mask[i] : 0;
  problem.mask = mask;
  problem.support.first_id = 7;
  problem.support.last_id = 270;
  expect_exact(problem, "range");
}

TEST(Support, SmallOnes) {
  Problem problem = make_problem({6, 12, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 89);
  problem.ids = {3, 3, 3, 3, 3, 3};
  const std::vector<std::uint8_t> mask = small_supports();
  for (const bool banned : {false, true}) {
    problem.set_mask(mask, banned);
    expect_exact(problem, fmt::format("small, banned {}", banned));
  }
}

TEST(Support, WhatIsOutsideDoesNotCountWhateverItsLogit) {
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Problem problem = make_problem({3, 20, 6, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 90);
    problem.ids = {4, 4, 5};
    problem.d_lse = {1.0F, 1.0F, 1.0F};
    std::vector<std::uint8_t> mask(3 * 20, 1);
    mask[0 * 20 + 5] = mask[2 * 20 + 5] = 0;
    problem.set_mask(mask, true);
    oracle::encode(DType::f32, problem.data.bias.data(), 5, odd);
    problem.data.bias_values[5] = static_cast<double>(odd);
    const Expected expected = expect(problem);
    EXPECT_FALSE(std::isnan(expected.dz[0]));
    EXPECT_TRUE(std::isnan(expected.dz[20]));
    EXPECT_EQ(oracle::bits_of(expected.dz[2 * 20 + 5]), 0U);
    expect_exact(problem, fmt::format("{} outside", odd));
  }
}

}  // namespace
}  // namespace isologit::test
