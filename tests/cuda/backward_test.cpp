// Gradients of the CUDA kernels, compiled for the host, against the oracle: inside the bound of CONTRACT.md 5, and the
// same bits however much is made at a time.
#include "gradients.hpp"

namespace isologit::detail::cuda {
namespace {

TEST(CudaBackward, EveryFamilyAndType) {
  for (const DotFamily family : oracle::dot_families) {
    for (const DType type : {DType::bf16, DType::f16, DType::f32}) {
      const auto problem =
          test::make_problem({7, 45, 19, type, type, DType::bf16}, family, 70 + static_cast<std::uint64_t>(type), 3);
      const std::string what = std::string(oracle::name_of(family)) + ' ' + std::to_string(static_cast<int>(type));
      expect_bounds(problem, what);
      expect_bounds(problem, what + ", unaligned", {.layout = {3, 1}});
    }
  }
}

TEST(CudaBackward, OverManyTiles) {
  expect_bounds(test::make_problem({70, 300, 40}, DotFamily::normal, 3), "rows");
  expect_bounds(test::make_problem({3, 2300, 72}, DotFamily::outliers, 4), "ids");
}

TEST(CudaBackward, ThroughTransforms) {
  Problem problem = test::make_problem({6, 80, 10, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 21, 3);
  problem.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
  problem.d_mean_logits = {0.0F, 1.0F, -0.5F, 0.0F, 3.0F, 1e-6F};
  for (const isologit::Transforms& transforms : {isologit::Transforms{true, 30.0F, ScaleKind::none, 1.0F},
                                                 {false, 0.0F, ScaleKind::multiply, -0.37F},
                                                 {true, 1.5F, ScaleKind::divide, 3.3F},
                                                 {true, 1.5F, ScaleKind::divide, 3.3F, TransformOrder::scale_first}}) {
    problem.transforms = transforms;
    expect_bounds(problem, "cap " + std::to_string(transforms.softcap));
  }
}

// p = 1 - e^-gap at the target: what a subtraction of rounded numbers would lose. Also from what a forward pass keeps.
TEST(CudaBackward, NearCertainRowsKeepRelativePrecision) {
  for (const float gap : {5.0F, 20.0F, 40.0F, 80.0F, 600.0F, 800.0F}) {
    Problem problem = test::make_problem({1, 2, 1, DType::f32, DType::f32, {}}, DotFamily::normal, 1);
    oracle::encode(DType::f32, problem.data.hidden.data(), 0, 1.0F);
    oracle::encode(DType::f32, problem.data.weight.data(), 0, gap);
    oracle::encode(DType::f32, problem.data.weight.data(), 1, 0.0F);
    problem.data.hidden_values = {1.0};
    problem.data.weight_values = {static_cast<double>(gap), 0.0};
    problem.ids = {0};
    problem.d_logprobs = {-1.0F};
    problem.d_lse.clear();
    problem.d_entropy.clear();
    expect_bounds(problem, "gap " + std::to_string(gap));
    expect_bounds(problem, "gap " + std::to_string(gap) + ", kept", {.kept_summaries = true});
  }
}

TEST(CudaBackward, FromWhatAForwardPassKeeps) {
  for (const DotFamily family : {DotFamily::normal, DotFamily::specials, DotFamily::constant}) {
    Problem problem = test::make_problem({9, 60, 24, DType::bf16, DType::bf16, {}}, family, 5, 2);
    problem.d_entropy.clear();
    expect_bounds(problem, std::string(oracle::name_of(family)), {.kept_summaries = true});
  }
}

TEST(CudaBackward, BlocksShowInNoBit) {
  const Problem problem =
      test::make_problem({130, 500, 40, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 6);
  const Found whole = gradients_by_kernels(problem);
  expect_same(whole, gradients_by_kernels(problem, {.most_columns = 64}), "columns");
  expect_same(whole, gradients_by_kernels(problem, {.most_rows = 64}), "rows");
  expect_same(whole, gradients_by_kernels(problem, {.most_rows = 64, .most_columns = 192}), "both");
  expect_same(whole, gradients_by_kernels(problem, {.layout = {5, 3}}), "layout");
}

// A row's gradient is the same alone.
TEST(CudaBackward, RowsDoNotDependOnOthers) {
  const Problem many = test::make_problem({70, 200, 24}, DotFamily::normal, 7, 2);
  const Found all = gradients_by_kernels(many);
  for (const std::int64_t row : {0, 33, 69}) {
    Problem one = many;
    const auto part = [&](auto& values, std::int64_t each) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * each);
      values = {begin, begin + static_cast<std::ptrdiff_t>(each)};
    };
    one.data.shape.rows = 1;
    part(one.data.hidden, 24 * 2);
    part(one.data.hidden_values, 24);
    part(one.ids, 2);
    part(one.d_logprobs, 2);
    part(one.d_lse, 1);
    part(one.d_entropy, 1);
    const Found alone = gradients_by_kernels(one);
    for (std::size_t k = 0; k < 24; ++k) {
      EXPECT_EQ(alone.dhidden[k], all.dhidden[static_cast<std::size_t>(row) * 24 + k]) << row << ' ' << k;
    }
  }
}

// Results in narrow types are what f32 has, rounded once more at most; and what a buffer holds is added first.
TEST(CudaBackward, TypesAndBuffers) {
  const Problem problem = test::make_problem({20, 90, 40, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 8);
  const Found wide = gradients_by_kernels(problem);
  for (const DType type : {DType::bf16, DType::f16, DType::f32}) {
    const double unit = type == DType::bf16 ? 0x1p-8 : type == DType::f16 ? 0x1p-11 : 0x1p-24;
    for (const bool accumulate : {false, true}) {
      const Found found = gradients_by_kernels(problem, {.type = type, .accumulate = accumulate});
      const auto expect_near = [&](const std::vector<double>& a, const std::vector<double>& b, double old) {
        for (std::size_t i = 0; i < a.size(); ++i) {
          const double want = b[i] + old;
          EXPECT_NEAR(a[i], want, std::fabs(want) * unit * 1.01 + 0x1p-25 * std::fabs(b[i]) + 0x1p-25) << i;
        }
      };
      expect_near(found.dhidden, wide.dhidden, accumulate ? 1.0 : 0.0);
      expect_near(found.dweight, wide.dweight, accumulate ? 1.0 : 0.0);
      expect_near(found.dbias, wide.dbias, 0.0);
    }
  }
}

// A row without an upstream contributes exactly 0, whatever it and the weight hold.
TEST(CudaBackward, ARowWithoutUpstreamIsZero) {
  Problem problem = test::make_problem({3, 40, 16}, DotFamily::normal, 9);
  for (const std::int64_t k : {0, 5}) {
    oracle::encode(DType::bf16, problem.data.hidden.data(), static_cast<std::size_t>(16 + k), HUGE_VALF);
    problem.data.hidden_values[static_cast<std::size_t>(16 + k)] = HUGE_VAL;
  }
  problem.ids = {3, 4, -100};
  problem.d_logprobs = {1.0F, 0.0F, 1.0F};
  problem.d_lse = {1.0F, 0.0F, 1.0F};
  problem.d_entropy = {1.0F, 0.0F, 1.0F};
  expect_bounds(problem, "finite weight");
  const Found found = gradients_by_kernels(problem);
  for (std::size_t k = 16; k < 48; ++k) EXPECT_EQ(found.dhidden[k], 0.0);
  oracle::encode(DType::bf16, problem.data.weight.data(), 7 * 16, HUGE_VALF);
  problem.data.weight_values[7 * 16] = HUGE_VAL;
  for (std::size_t k = 16; k < 48; ++k) EXPECT_EQ(gradients_by_kernels(problem).dhidden[k], 0.0);
}

TEST(CudaBackward, WhatIsNotProvenIsSaid) {
  // Two equal tops, both ids of the row: a - 2 a / (2 + rest) is a rest / 2, far below what pairs tell of a.
  Problem problem = test::make_problem({1, 3, 1, DType::f32, DType::f32, {}}, DotFamily::normal, 1, 2);
  const float weight[] = {100.0F, 100.0F, 0.0F};
  problem.data.hidden_values = {1.0};
  problem.data.weight_values.assign(weight, weight + 3);
  oracle::encode(DType::f32, problem.data.hidden.data(), 0, 1.0F);
  for (std::size_t v = 0; v < 3; ++v) oracle::encode(DType::f32, problem.data.weight.data(), v, weight[v]);
  problem.ids = {0, 1};
  problem.d_logprobs = {1.0F, 1.0F};
  problem.d_lse.clear();
  problem.d_entropy.clear();
  EXPECT_GT(gradients_by_kernels(problem).status.open, 0U);
  problem.ids = {0, 7};
  EXPECT_EQ(gradients_by_kernels(problem).status.wrong, 1U);
}

// Through fast logits: dz is that of these very logits.
TEST(CudaBackward, OfFastLogits) {
  Problem problem = test::make_problem({20, 300, 72, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 12, 2);
  for (const std::int64_t rows : {20, 3}) {
    HostLauncher launcher;
    problem.data.shape.rows = rows;
    problem.z0 = logits_by(launcher, problem.data, {}, DType::f32, true);
    expect_bounds(problem, "fast", {.fast = true});
    problem.d_entropy.clear();
    expect_bounds(problem, "fast, kept", {.kept_summaries = true, .fast = true});
  }
}

TEST(CudaBackward, UpstreamsThatAreNotFiniteMakeNan) {
  Problem problem = test::make_problem({2, 30, 8}, DotFamily::normal, 11);
  problem.ids = {3, 4};
  problem.d_logprobs = {HUGE_VALF, 1.0F};
  const Found found = gradients_by_kernels(problem);
  EXPECT_TRUE(std::isnan(found.dhidden[0]) && std::isnan(found.dweight[0]) && std::isnan(found.dbias[0]));
  EXPECT_TRUE(std::isfinite(found.dhidden[8]));
}

TEST(CudaBackward, WordsAreNearest) {
  for (const double x : {1.0, 1.0 + 0x1p-21, 1.0 + 0x1.8p-21, -3.7, 0x1p-300, 0.0, HUGE_VAL}) {
    const double kept = from_words(word_of(x), 0);
    EXPECT_TRUE(kept == x || std::fabs(kept - x) <= std::fabs(x) * 0x1p-21) << x;
  }
  EXPECT_TRUE(std::isnan(from_words(word_of(static_cast<double>(bit_cast<float>(0x7FFFFFFFU))), 0)));
}

}  // namespace
}  // namespace isologit::detail::cuda
