// The fast arithmetic (CONTRACT.md 6): logits within their stated bound and independent of everything around them;
// what is made of them is exact.
#include <cmath>

#include "isologit/kernels.hpp"
#include "isologit/partial.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/kernel_logits.hpp"
#include "score/low_rank_problem.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

std::vector<std::string> fast_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable && kernel.arithmetic == Arithmetic::fast) names.push_back(kernel.name);
  }
  return names;
}

class Fast : public testing::TestWithParam<std::string> {
 protected:
  ScoreOptions options(int threads = 1) const {
    ScoreOptions options;
    options.threads = threads;
    options.kernel = GetParam();
    options.arithmetic = Arithmetic::fast;
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Kernel, Fast, testing::ValuesIn(fast_kernels()),
                         [](const auto& tested) { return tested.param; });

// The bound of docs/kernels.md, beside the rounding of the oracle's own result.
double bound(const std::string& kernel, const DotData& data, std::int64_t n, std::int64_t v, float exact) {
  double magnitude = 0;
  for (std::int64_t k = 0; k < data.shape.cols; ++k) {
    magnitude += std::fabs(data.hidden_row(n)[k] * data.weight_row(v)[k]);
  }
  const auto size = static_cast<double>(data.shape.cols);
  const bool flushes = kernel == "amx_fast" || kernel == "avx512_bf16_fast";
  const double least = flushes ? 0x1p-126 : 0x1p-149;
  return 0x1p-23 * (80 + size / 512) * (magnitude + std::fabs(data.bias_of(v))) + size * least +
         std::fabs(static_cast<double>(exact)) * 0x1p-24 + 0x1p-149;
}

// A low-rank addition: within the bound, with its terms in the magnitude and its roundings in the factor.
TEST_P(Fast, LogitsOfALowRankAdditionAreWithinTheBound) {
  const low_rank::Problem problem =
      low_rank::make_problem({5, 70, 257, DType::bf16, DType::bf16, DType::f32}, 9, DType::f32, DType::bf16,
                             DotFamily::normal, DotFamily::normal, 0.375, 4);
  const DotData& data = problem.data;
  const KernelLogits found =
      kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view(), 0, 0, problem.lora());
  for (std::int64_t n = 0; n < 5; ++n) {
    const auto factors = problem.factors(n);
    for (std::int64_t v = 0; v < 70; ++v) {
      const float exact = problem.expected(n, v, factors);
      double terms = 0;
      for (std::size_t j = 0; j < 9; ++j) {
        const auto u = static_cast<double>(factors[j].round(DType::f32));
        terms += std::fabs(u * problem.b.values[static_cast<std::size_t>(v) * 9 + j]);
      }
      const double error = std::fabs(static_cast<double>(found.values[static_cast<std::size_t>(n * 70 + v)]) -
                                     static_cast<double>(exact));
      EXPECT_LE(error, 2 * bound(GetParam(), data, n, v, exact) + 0x1p-16 * terms) << n << ", " << v;
      EXPECT_GT(terms, 0x1p-4) << "the addition must be more than the error";
    }
  }
}

// One factor a logit: nothing is accumulated, and fast ones are exact too. Scaled midpoints of bf16, capped far above.
TEST_P(Fast, LogitsOfEitherOrderAreRoundedOnce) {
  for (const TransformOrder order : {TransformOrder::softcap_first, TransformOrder::scale_first}) {
    std::vector<float> weight;
    std::vector<double> exact;
    for (int i = 0; i < 64; ++i) {
      weight.push_back(2 + 0x1p-5F * static_cast<float>(i) + 0x1p-7F);
      exact.push_back(static_cast<double>(weight.back()));
    }
    const float one = 1;
    const double h = 1;
    Head head;
    head.weight = {weight.data(), DType::f32, 64, 1, 1};
    head.vocab_size = 64;
    head.transforms = {true, 0x1p100F, ScaleKind::multiply, 0.5F, order};
    std::vector<std::uint8_t> found(128);
    ScoreRequest request;
    request.hidden = {&one, DType::f32, 1, 1, 1};
    request.logits = {found.data(), DType::bf16, 64, 0, 64};
    ASSERT_TRUE(score(head, request, options()));
    for (std::size_t v = 0; v < 64; ++v) {
      const float expected = oracle::last_logit({&h, &exact[v], 1}, 0, head.transforms, 1, DType::bf16);
      EXPECT_EQ(static_cast<float>(oracle::decode(DType::bf16, found.data(), v)), expected) << weight[v];
    }
  }
}

TEST_P(Fast, LogitsKeepTheirBound) {
  std::uint64_t seed = 0;
  for (const DotFamily family : {DotFamily::normal, DotFamily::outliers, DotFamily::constant, DotFamily::cancellation,
                                 DotFamily::near_tie, DotFamily::subnormal, DotFamily::zero_rows}) {
    for (const DType hidden : {DType::bf16, DType::f16, DType::f32}) {
      for (const DType weight : {DType::bf16, DType::f16, DType::f32}) {
        for (const std::int64_t cols : {5, 31, 64, 257, 1000}) {
          ++seed;
          const DotShape shape{static_cast<std::int64_t>(1 + seed % 9),
                               13,
                               cols,
                               hidden,
                               weight,
                               seed % 2 == 0 ? std::optional(DType::f32) : std::nullopt};
          const DotData data = make_dot(shape, family, seed);
          const auto found = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view());
          for (std::int64_t i = 0; i < shape.rows * shape.vocab; ++i) {
            const std::int64_t n = i / shape.vocab;
            const std::int64_t v = i % shape.vocab;
            const float exact =
                oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(cols), data.bias_of(v));
            const float z = found.values[static_cast<std::size_t>(i)];
            // Where the sum of magnitudes overflows f32, so may partial sums.
            if (!(bound(GetParam(), data, n, v, exact) < 0x1p110)) continue;
            ASSERT_LE(std::fabs(static_cast<double>(z) - static_cast<double>(exact)),
                      bound(GetParam(), data, n, v, exact))
                << name_of(family) << " cols " << cols << " row " << n << " id " << v;
          }
        }
      }
    }
  }
}

TEST_P(Fast, LogitsDoNotDependOnWhatIsAroundThem) {
  for (const std::int64_t cols : {1, 33, 520}) {
    const DotShape shape{70, 70, cols, DType::bf16, DType::bf16, DType::f32};
    DotData data = make_dot(shape, DotFamily::normal, 3);
    // Subnormal elements, which a kernel may have to go another way for.
    oracle::encode(DType::bf16, data.hidden.data(), static_cast<std::size_t>(5 * cols), 0x1p-130F);
    oracle::encode(DType::bf16, data.weight.data(), static_cast<std::size_t>(7 * cols), -0x1p-133F);
    const auto logits = [&](std::int64_t block, std::int64_t tile) {
      return kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view(), block, tile).values;
    };
    const std::vector<float> whole = logits(0, 0);
    for (std::int64_t block = 1; block <= 70; ++block) {
      ASSERT_EQ(logits(block, 0), whole) << "blocks of " << block << " rows, cols " << cols;
    }
    for (const std::int64_t tile : {1, 3, 8, 17}) {
      ASSERT_EQ(logits(2, tile), whole) << "tiles of " << tile << " ids, cols " << cols;
    }
  }
}

// Random operands, and rows with NaN, inf and zeros among them.
struct Problem {
  DotData data = make_dot({37, 150, 70, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 5);
  Head head;
  std::vector<std::int64_t> ids;
  std::vector<float> temperatures;

  Problem() {
    oracle::encode(DType::bf16, data.hidden.data(), 4 * 70 + 3, std::nanf(""));
    oracle::encode(DType::bf16, data.hidden.data(), 9 * 70 + 1, HUGE_VALF);
    head.weight = data.weight_view();
    head.bias = data.bias_view();
    head.vocab_size = data.shape.vocab;
    head.transforms = {true, 30.0F, ScaleKind::multiply, 0.9F};
    oracle::Random random(1);
    for (int n = 0; n < 37; ++n) {
      ids.push_back(random.between(0, 149));
      temperatures.push_back(static_cast<float>(0.5 + random.uniform()));
    }
  }
};

TEST_P(Fast, WhatIsMadeOfTheLogitsIsExact) {
  const Problem problem;
  const Outputs outputs =
      score_all(problem.head, problem.data.hidden_view(), problem.ids, problem.temperatures, options());
  EXPECT_EQ(outputs.report.arithmetic, Arithmetic::fast);
  EXPECT_EQ(outputs.report.kernel, GetParam());
  const auto logits =
      kernel_logits(GetParam(), problem.data.hidden_view(), problem.data.weight_view(), problem.data.bias_view());
  for (std::int64_t n = 0; n < 37; ++n) {
    std::vector<float> z(logits.values.begin() + n * 150, logits.values.begin() + (n + 1) * 150);
    const auto at = static_cast<std::size_t>(n);
    for (float& one : z) one = oracle::transform(one, problem.head.transforms, problem.temperatures[at]);
    EXPECT_TRUE(row_is_right(outputs, n, z, problem.ids[at]));
  }
  const Outputs threads =
      score_all(problem.head, problem.data.hidden_view(), problem.ids, problem.temperatures, options(3));
  EXPECT_TRUE(same_rows(threads, outputs));
}

TEST_P(Fast, NarrowLogitsAreTheF32OnesRoundedOnce) {
  Problem problem;
  problem.head.transforms = {};
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<std::uint16_t> narrow(37 * 150);
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    request.logits = {narrow.data(), dtype, 150, 0, 150};
    ASSERT_TRUE(score(problem.head, request, options()).has_value());
    const auto logits =
        kernel_logits(GetParam(), problem.data.hidden_view(), problem.data.weight_view(), problem.data.bias_view());
    const double one = 1;
    for (std::size_t i = 0; i < narrow.size(); ++i) {
      const auto z = static_cast<double>(logits.values[i]);
      const float expected = oracle::logit(&z, &one, 1, 0, dtype);
      const auto found = static_cast<float>(oracle::decode(dtype, narrow.data(), i));
      EXPECT_TRUE(same_logit(found, expected)) << i << ": " << found << "; expected " << expected;
    }
  }
}

TEST_P(Fast, StatesOfTheOtherArithmeticAreRefused) {
  const Problem problem;
  const auto begin = [&](const ScoreOptions& how, std::vector<float>& lse) {
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    lse.resize(37);
    request.lse = lse.data();
    return *PartialScore::begin(150, 70, problem.head.transforms, request, how);
  };
  std::vector<float> one;
  std::vector<float> other;
  PartialScore fast = begin(options(), one);
  PartialScore exact = begin({}, other);
  ASSERT_TRUE(exact.absorb({problem.head, 0}).has_value());
  const auto merged = fast.merge(*exact.state());
  ASSERT_FALSE(merged.has_value());
  EXPECT_NE(merged.error().message.find("arithmetic"), std::string::npos) << merged.error().message;
}

TEST_P(Fast, IsNotTakenForExact) {
  const Problem problem;
  ScoreRequest request;
  request.hidden = problem.data.hidden_view();
  ScoreOptions options = this->options();
  options.arithmetic = Arithmetic::exact;
  const auto refused = score(problem.head, request, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, StatusCode::unsupported);
  EXPECT_EQ(refused.error().message, "kernel: '" + GetParam() + "' is of fast arithmetic; exact was asked for");
}

}  // namespace
}  // namespace isologit::testing_score
