// `fast` gradients keep the bounds of CONTRACT.md 5 against the oracle's exact dz, on every kernel.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bound.hpp"
#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

void expect_bounds(const Problem& problem, const std::string& what) {
  const Expected expected = expect(problem);
  const std::int64_t n = problem.rows();
  const std::int64_t v = problem.vocab();
  const std::int64_t h = problem.cols();
  // Rows without an upstream contribute nothing, whatever they hold.
  std::vector<double> hidden = problem.data.hidden_values;
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    if (expected.skipped[i / static_cast<std::size_t>(h)] != 0) hidden[i] = 0;
  }
  for (const std::string& kernel : runnable_kernels(problem.rows() * problem.vocab() < 3000)) {
    BackwardOptions options;
    options.kernel = kernel;
    options.threads = 2;
    const Gradients actual = run(problem, options);
    const std::string name = fmt::format("{} {}", what, kernel);
    std::vector<double> weight = problem.data.weight_values;
    expect_within({actual.dhidden, n, v, h, v, 1, weight}, expected.dz, name + " dhidden");
    expect_within({actual.dweight, v, n, h, 1, v, hidden}, expected.dz, name + " dweight");
    EXPECT_EQ(actual.report.arithmetic, kernel == "reference" ? Arithmetic::exact : Arithmetic::fast);
  }
}

TEST(Fast, KeepsItsBoundOnEveryFamily) {
  for (const DotFamily family : oracle::dot_families) {
    if (family == DotFamily::specials) continue;  // see below
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      const Problem problem =
          make_problem({7, 45, 19, dtype, dtype, DType::bf16}, family, 70 + static_cast<std::uint64_t>(dtype), 3);
      expect_bounds(problem, fmt::format("{} {}", name_of(family), dtype_name(dtype)));
    }
  }
}

TEST(Fast, KeepsItsBoundOverManyPieces) {
  expect_bounds(make_problem({261, 300, 35, DType::bf16, DType::bf16, {}}, DotFamily::normal, 3), "wide");
  expect_bounds(make_problem({5, 1100, 270, DType::bf16, DType::bf16, {}}, DotFamily::outliers, 4), "long");
}

TEST(Fast, KeepsItsBoundThroughTransforms) {
  Problem problem = make_problem({6, 80, 10, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 21, 3);
  problem.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
  for (const isologit::Transforms& transforms : {isologit::Transforms{true, 30.0F, ScaleKind::none, 1.0F},
                                                 {false, 0.0F, ScaleKind::multiply, -0.37F},
                                                 {true, 1.5F, ScaleKind::divide, 3.3F},
                                                 {true, 1.5F, ScaleKind::divide, 3.3F, TransformOrder::scale_first}}) {
    problem.transforms = transforms;
    expect_bounds(problem, fmt::format("cap {} scale {}", transforms.softcap, transforms.scale));
  }
}

TEST(Fast, KeepsItsBoundOverSupports) {
  for (const bool banned : {false, true}) {
    Problem problem = make_problem({9, 600, 10, DType::bf16, DType::bf16, {}}, DotFamily::normal, 22, 3);
    oracle::Random random(23);
    std::vector<std::uint8_t> mask(9 * 600);
    for (std::uint8_t& in : mask) in = random.below(3) == 0 ? 0 : 1;
    problem.set_mask(mask, banned);
    expect_bounds(problem, banned ? "banned" : "kept");
  }
}

// One row of the sums: g (a dense upstream of one logit per row) against hidden states of one element.
Problem dense_column(const std::vector<float>& g, const std::vector<float>& hidden, DType dtype = DType::f32) {
  const auto rows = static_cast<std::int64_t>(g.size());
  const std::int64_t cols = static_cast<std::int64_t>(hidden.size()) / rows;
  Problem problem = make_problem({rows, 1, cols, dtype, dtype, {}}, DotFamily::normal, 1);
  for (std::size_t i = 0; i < hidden.size(); ++i) oracle::encode(dtype, problem.data.hidden.data(), i, hidden[i]);
  problem.data.hidden_values.assign(hidden.begin(), hidden.end());
  problem.ids.clear();
  problem.d_logprobs.clear();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  problem.d_logits = g;
  return problem;
}

// Products beyond f32's range, though the sum is not: they must neither overflow on the way nor vanish.
TEST(Fast, KeepsItsBoundFarFromOne) {
  expect_bounds(dense_column({1e10F, -1e10F, 1.0F}, {1e30F, 1e30F, 2.0F}), "overflow");
  expect_bounds(dense_column({1.0F, 1.0F, -1.0F, -1.0F}, std::vector<float>(4, 0x1p127F)), "overflow of a sum");
  std::vector<float> g, hidden;
  for (int i = 0; i < 100; ++i) {
    g.push_back(0x1.9p-75F);
    hidden.push_back(0x1.7p-75F);
  }
  expect_bounds(dense_column(g, hidden), "underflow");
  expect_bounds(dense_column({0x1.3p59F, 0x1.5p59F, -0x1.1p50F}, {0x1.7p60F, 0x1.9p60F, 0x1.1p60F}), "near overflow");
  expect_bounds(dense_column({0x1.3p-100F, 0x1.5p-149F, -0x1.1p-101F}, {1.5F, 0x1.9p60F, -2.0F}), "small");
  expect_bounds(dense_column({0x1.3p100F, 0x1.5p-20F, -0x1.1p99F}, {1.5F, 0x1.9p10F, -2.0F}), "great");
  expect_bounds(dense_column({0x1.3p120F, 0x1.5p-80F}, {0.0F, 0x1.9p10F}), "great beside a row of zeros");
  expect_bounds(dense_column({1.0F, 0x1.5p-80F}, {0.0F, 0x1.9p-65F}), "small beside a row of zeros");
}

// What instructions of bf16 products take for 0, and what they must not be given: numbers that a row of zeros hides.
TEST(Fast, KeepsItsBoundFarFromOneInBf16) {
  const auto check = [](const std::vector<float>& g, const std::vector<float>& hidden, const char* what) {
    expect_bounds(dense_column(g, hidden, DType::bf16), what);
  };
  check({1.0F, 0x1.5p-130F}, {0.0F, 0.0F, 1.0F, 0x1.5p1F}, "subnormal beside a row of zeros");
  check({1.0F, -0x1p-110F}, {0.0F, 0.0F, 0x1p-20F, 0x1.5p-21F}, "a product below 2^-126 beside a row of zeros");
  check({1.0F, 0x1.3p3F}, {0x1p-130F, 0x1.1p-127F, -0x1p-131F, 0x1p-128F}, "subnormal elements");
  check({0x1.fffffep-120F, 0x1p-121F}, {0x1p100F, -0x1.5p99F, 0x1p101F, 0x1p98F}, "great elements, small upstreams");
  check({0x1.fffffep120F, 0x1.234568p119F}, {0x1p-100F, -0x1.5p-99F, 0x1p-101F, 0x1p-98F}, "the other way round");
  check({0x1.fffffep127F, -0x1.fffffep127F}, {1.5F, 1.0F, 1.5F, 0.75F}, "the greatest upstreams");
  check({0x1.fffffep-126F, 0x1p-149F}, {1.5F, 1.0F, 1.5F, 0.75F}, "the least");
  check({1.0F, 0x1p-30F, 0x1.8p-60F}, {0x1p-41F, 1.0F, 1.0F, 0x1p-41F, 0x1.8p49F, 0x1p50F}, "at the edges of plain");
}

// Each term of one sign, so that no cancellation hides a share of the bound, and parts that round as badly as they can.
TEST(Fast, KeepsItsBoundWhereAllTermsAgree) {
  for (const float g : {0x1.00fffep0F, 0x1.01p0F, 0x1.0101p0F, 0x1.fe01fep0F, 1.0F / 3.0F}) {
    std::vector<float> hidden(300 * 40);
    for (std::size_t i = 0; i < hidden.size(); ++i)
      hidden[i] = i % 40 == 0 ? 1.0F + 0x1p-7F * static_cast<float>(i / 40 % 128) : 0.0F;
    expect_bounds(dense_column(std::vector<float>(300, g), hidden, DType::bf16), fmt::format("upstream {}", g));
  }
}

TEST(Fast, NearCertainRowsKeepRelativePrecision) {
  // p = 1 - e^-gap at the target: dz there is a difference that a subtraction of rounded numbers would lose.
  for (const float gap : {5.0F, 20.0F, 40.0F, 80.0F}) {
    Problem problem = make_problem({1, 2, 1, DType::f32, DType::f32, {}}, DotFamily::normal, 1);
    oracle::encode(DType::f32, problem.data.hidden.data(), 0, 1.0F);
    oracle::encode(DType::f32, problem.data.weight.data(), 0, gap);
    oracle::encode(DType::f32, problem.data.weight.data(), 1, 0.0F);
    problem.data.hidden_values = {1.0};
    problem.data.weight_values = {static_cast<double>(gap), 0.0};
    problem.ids = {0};
    problem.d_logprobs = {-1.0F};
    problem.d_lse.clear();
    problem.d_entropy.clear();
    expect_bounds(problem, fmt::format("gap {}", gap));
  }
}

TEST(Fast, SpecialValuesStayInTheirRows) {
  Problem problem = make_problem({6, 45, 19, DType::bf16, DType::bf16, {}}, DotFamily::normal, 5);
  const BackwardOptions options;
  const Gradients before = run(problem, options);
  problem.ids[2] = 3;
  problem.d_logprobs[2] = 1.0F;
  oracle::encode(DType::bf16, problem.data.hidden.data(), 2 * 19 + 4, std::numeric_limits<float>::quiet_NaN());
  const Gradients after = run(problem, options);
  for (std::size_t i = 0; i < before.dhidden.size(); ++i) {
    if (i / 19 == 2) {
      EXPECT_EQ(oracle::bits_of(after.dhidden[i]), 0x7FC00000U);
    } else {
      EXPECT_EQ(oracle::bits_of(after.dhidden[i]), oracle::bits_of(before.dhidden[i]));
    }
  }
  for (const float x : after.dweight) EXPECT_EQ(oracle::bits_of(x), 0x7FC00000U);
  for (const float x : after.dbias) EXPECT_EQ(oracle::bits_of(x), 0x7FC00000U);
}

}  // namespace
}  // namespace isologit::test
