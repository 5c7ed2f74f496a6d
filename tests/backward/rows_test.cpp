// Rows that contribute nothing, rows that are NaN, and what a call reports.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr Arithmetic kBoth[] = {Arithmetic::exact, Arithmetic::fast};

Problem plain() { return make_problem({5, 40, 11, DType::bf16, DType::bf16, {}}, DotFamily::normal, 2); }

void set_hidden(Problem& problem, std::int64_t row, float x) {
  for (std::int64_t k = 0; k < problem.cols(); ++k) {
    const auto at = static_cast<std::size_t>(row * problem.cols() + k);
    oracle::encode(DType::bf16, problem.data.hidden.data(), at, x);
    problem.data.hidden_values[at] = static_cast<double>(x);
  }
}

TEST(Rows, WithoutUpstreamContributeNothingWhateverTheyHold) {
  for (const bool ignore : {false, true}) {
    for (const Arithmetic arithmetic : kBoth) {
      Problem problem = plain();
      problem.ids[3] = ignore ? -100 : 4;
      problem.d_logprobs[3] = ignore ? 1.0F : -0.0F;
      if (!ignore) problem.d_lse[3] = problem.d_entropy[3] = 0.0F;
      BackwardOptions options;
      options.arithmetic = arithmetic;
      Gradients clean = run(problem, options);
      EXPECT_LT(clean.report.rows, 5);
      if (arithmetic == Arithmetic::exact) clean = expect(problem).gradients;
      for (const float x : {kNan, std::numeric_limits<float>::infinity()}) {
        set_hidden(problem, 3, x);
        const Gradients dirty = run(problem, options);
        expect_same_bits(dirty, clean, "a row without upstream");
        for (std::size_t k = 0; k < 11; ++k) EXPECT_EQ(oracle::bits_of(dirty.dhidden[33 + k]), 0U);
      }
    }
  }
}

TEST(Rows, AllWithoutUpstreamGiveZerosOrLeaveTheBuffer) {
  Problem problem = plain();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  for (float& a : problem.d_logprobs) a = 0;
  const Gradients zeros = run(problem, {});
  for (const std::vector<float>* all : {&zeros.dhidden, &zeros.dweight, &zeros.dbias}) {
    for (const float x : *all) EXPECT_EQ(oracle::bits_of(x), 0U);
  }
  problem.fill_old(3);
  const Gradients kept = run(problem, {});
  EXPECT_EQ(kept.dhidden, problem.old_dhidden);
  EXPECT_EQ(kept.dweight, problem.old_dweight);
  EXPECT_EQ(kept.dbias, problem.old_dbias);
}

TEST(Rows, NoneAtAll) {
  Problem problem = make_problem({1, 40, 11, DType::bf16, DType::bf16, {}}, DotFamily::normal, 2);
  BackwardRequest request = problem.request();
  request.hidden.rows = 0;
  request.token_ids = {};
  request.d_logprobs = nullptr;
  std::vector<float> dweight(40 * 11, 3.0F);
  request.dweight = {dweight.data(), DType::f32, 11, false};
  ASSERT_TRUE(backward(problem.head(), request, {}).has_value());
  for (const float x : dweight) EXPECT_EQ(oracle::bits_of(x), 0U);
}

TEST(Rows, WithAnUpstreamThatIsNotFiniteAreNaN) {
  for (const Arithmetic arithmetic : kBoth) {
    for (const float bad : {kNan, std::numeric_limits<float>::infinity()}) {
      Problem problem = plain();
      problem.ids[1] = 7;
      problem.d_logprobs[1] = bad;
      BackwardOptions options;
      options.arithmetic = arithmetic;
      const Gradients gradients = run(problem, options);
      for (std::size_t i = 0; i < gradients.dhidden.size(); ++i) {
        EXPECT_EQ(std::isnan(gradients.dhidden[i]), i / 11 == 1) << i;
      }
      for (const float x : gradients.dweight) EXPECT_EQ(oracle::bits_of(x), 0x7FC00000U);
      problem.ids[1] = -100;  // an ignored id's upstream is not looked at
      for (const float x : run(problem, options).dweight) EXPECT_TRUE(std::isfinite(x));
    }
  }
}

TEST(Rows, ProgressEndsAtOneAndCancels) {
  const Problem problem = make_problem({3, 2000, 11, DType::bf16, DType::bf16, {}}, DotFamily::normal, 2);
  std::vector<float> dweight(2000 * 11);
  BackwardRequest request = problem.request();
  request.dweight = {dweight.data(), DType::f32, 11, false};
  BackwardOptions options;
  options.threads = 1;
  double last = 0;
  options.progress = [&](double done) {
    EXPECT_GE(done, last);
    last = done;
    return true;
  };
  ASSERT_TRUE(backward(problem.head(), request, options).has_value());
  EXPECT_EQ(last, 1.0);
  for (const double stop : {0.01, 0.5}) {
    options.progress = [&](double done) { return done < stop; };
    const auto result = backward(problem.head(), request, options);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, StatusCode::cancelled);
  }
}

}  // namespace
}  // namespace isologit::test
