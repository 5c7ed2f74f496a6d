// Summaries of the forward pass: what they say, that they change no bit, and that those of other logits are noticed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backward/derivative.hpp"
#include "isologit/kernels.hpp"
#include "isologit/partial.hpp"
#include "isologit/score.hpp"
#include "oracle/logit.hpp"
#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

ScoreRequest forward_request(const Problem& problem, std::vector<RowSummary>& summaries) {
  summaries.assign(static_cast<std::size_t>(problem.rows()), {});
  ScoreRequest request;
  request.hidden = problem.data.hidden_view();
  request.temperatures = problem.temperatures;
  request.support = problem.support;
  request.summaries = summaries.data();
  return request;
}

std::vector<RowSummary> summaries_of(const Problem& problem, const ScoreOptions& options) {
  std::vector<RowSummary> summaries;
  const auto report = score(problem.head(), forward_request(problem, summaries), options);
  EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().message);
  return summaries;
}

std::int64_t known(const std::vector<RowSummary>& summaries) {
  return std::count_if(summaries.begin(), summaries.end(), [](const RowSummary& row) { return !std::isnan(row.top); });
}

// Several strips and chunks; every kind of upstream.
Problem large(std::uint64_t seed) {
  Problem problem = make_problem({40, 1300, 21, DType::bf16, DType::bf16, {}}, DotFamily::normal, seed, 2);
  problem.temperatures = {0.8F};
  return problem;
}

TEST(Summaries, AreTheSumsBelowTheTop) {
  const Problem problem = make_problem({6, 700, 33, DType::bf16, DType::bf16, {}}, DotFamily::normal, 3);
  const std::vector<RowSummary> summaries = summaries_of(problem, {});
  ASSERT_EQ(known(summaries), problem.rows());
  for (std::int64_t n = 0; n < problem.rows(); ++n) {
    std::vector<double> z;
    for (std::int64_t v = 0; v < problem.vocab(); ++v) {
      z.push_back(static_cast<double>(oracle::logit(problem.data.hidden_row(n), problem.data.weight_row(v),
                                                    static_cast<std::size_t>(problem.cols()), 0.0F)));
    }
    const double top = *std::max_element(z.begin(), z.end());
    long double mass = -1;
    long double moment = 0;
    for (const double x : z) {
      mass += std::exp(static_cast<long double>(x - top));
      moment += std::exp(static_cast<long double>(x - top)) * static_cast<long double>(top - x);
    }
    const RowSummary& row = summaries[static_cast<std::size_t>(n)];
    EXPECT_EQ(row.top, top);
    EXPECT_LE(std::fabs(row.mass - static_cast<double>(mass)), row.mass_error);
    EXPECT_LE(std::fabs(row.moment - static_cast<double>(moment)), row.moment_error);
    EXPECT_LE(row.mass_error, row.mass * 0x1p-42);
    EXPECT_LE(row.moment_error, row.moment * 0x1p-42);
  }
}

TEST(Summaries, ChangeNoBitAndSaveAPass) {
  int counted = 0;
  for (const KernelInfo& kernel : kernels()) {
    if (!kernel.runnable || kernel.name == "reference") continue;
    for (const std::uint64_t seed : {21U, 22U, 23U}) {
      Problem problem = large(seed);
      if (seed == 23) problem = make_problem({20, 1300, 21, DType::f32, DType::f32, {}}, DotFamily::near_tie, seed);
      if (seed == 22) problem.transforms = {.has_softcap = true, .softcap = 3};
      for (const Arithmetic gradients : {Arithmetic::fast, Arithmetic::exact}) {
        BackwardOptions options;
        options.arithmetic = gradients;
        options.logits = kernel.arithmetic;
        options.kernel = kernel.name;
        options.threads = 3;
        const Gradients without = run(problem, options);
        Problem with = problem;
        ScoreOptions forward{.threads = 2, .kernel = kernel.name, .arithmetic = kernel.arithmetic, .progress = {}};
        with.summaries = summaries_of(problem, forward);
        ASSERT_GT(2 * known(with.summaries), problem.rows());  // near ties: tops that occur twice
        // Half of the rows without one, too.
        for (const bool half : {false, true}) {
          for (std::size_t n = 0; half && n < with.summaries.size(); n += 2) with.summaries[n] = {};
          const Gradients found = run(with, options);
          expect_same_bits(found, without, fmt::format("{} seed {} half {}", kernel.name, seed, half));
          if (without.report.logit_fallbacks == 0) continue;
          ++counted;
          EXPECT_LT(found.report.logit_fallbacks, without.report.logit_fallbacks);
        }
      }
    }
  }
  EXPECT_GT(counted, 0);  // of calls in which logits were left to exact accumulation, once a pass
}

TEST(Summaries, OfShardsAreAsGood) {
  Problem problem = large(31);
  const Gradients without = run(problem, {});
  std::vector<RowSummary> summaries;
  auto partial = PartialScore::begin(problem.vocab(), problem.cols(), {}, forward_request(problem, summaries), {});
  ASSERT_TRUE(partial.has_value());
  Head second = problem.head();
  Head first = second;
  first.vocab_size = first.weight.rows = 401;
  second.vocab_size = second.weight.rows = problem.vocab() - 401;
  second.weight.data = problem.data.weight.data() + 401 * problem.cols() * 2;
  ASSERT_TRUE(partial->absorb({second, 401}).has_value());
  ASSERT_TRUE(partial->absorb({first, 0}).has_value());
  ASSERT_TRUE(partial->finish_round().value());
  ASSERT_EQ(known(summaries), problem.rows());
  problem.summaries = summaries;
  expect_same_bits(run(problem, {}), without, "shards");
}

// Rows that are special, ignored, or hold their top twice have none; all gradients are as without.
TEST(Summaries, MayBeMissing) {
  Problem problem = make_problem({6, 90, 9, DType::f32, DType::f32, {}}, DotFamily::normal, 41);
  const auto set = [&](std::vector<std::uint8_t>& bytes, std::vector<double>& values, std::size_t at, float value) {
    oracle::encode(DType::f32, bytes.data(), at, value);
    values[at] = static_cast<double>(value);
  };
  const auto cols = static_cast<std::size_t>(problem.cols());
  set(problem.data.hidden, problem.data.hidden_values, 0, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t k = 0; k < cols; ++k) set(problem.data.hidden, problem.data.hidden_values, 1 * cols + k, 0.0F);
  std::vector<RowSummary> summaries;
  ScoreRequest request = forward_request(problem, summaries);
  const std::vector<std::uint8_t> mask = {1, 1, 0, 1, 1, 1};
  request.row_mask = mask;
  ASSERT_TRUE(score(problem.head(), request, {}).has_value());
  EXPECT_TRUE(std::isnan(summaries[0].top) && std::isnan(summaries[1].top) && std::isnan(summaries[2].top));
  EXPECT_EQ(known(summaries), 3);
  Problem with = problem;
  with.summaries = summaries;
  expect_same_bits(run(with, {}), run(problem, {}), "fast with special rows");
  BackwardOptions exact;
  exact.arithmetic = Arithmetic::exact;
  expect_same_bits(run(with, exact), expect(problem).gradients, "exact with special rows");
}

TEST(Summaries, OfOtherLogitsAreRefused) {
  const auto expect_refused = [](const Problem& problem, const std::string& what) {
    for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::exact}) {
      std::vector<float> dhidden(static_cast<std::size_t>(problem.rows() * problem.cols()));
      BackwardRequest request = problem.request();
      request.dhidden = {dhidden.data(), DType::f32, problem.cols(), false};
      BackwardOptions options;
      options.arithmetic = arithmetic;
      const auto result = backward(problem.head(), request, options);
      ASSERT_FALSE(result.has_value()) << what;
      EXPECT_EQ(result.error().code, StatusCode::invalid_argument);
      EXPECT_EQ(result.error().message.rfind("summaries[3]", 0), 0U) << result.error().message;
    }
  };
  Problem problem = make_problem({5, 400, 9, DType::f32, DType::f32, {}}, DotFamily::normal, 51);
  problem.d_lse.assign(5, 1.0F);  // every row contributes
  const std::vector<RowSummary> right = summaries_of(problem, {});
  ASSERT_EQ(known(right), 5);
  problem.summaries = right;
  problem.summaries[3].top += 1;  // no logit reaches it
  expect_refused(problem, "all logits below the top");
  problem.summaries[3].top = right[3].top - 1;
  expect_refused(problem, "a logit above the top");
  problem.summaries = right;
  oracle::encode(DType::f32, problem.data.hidden.data(), 3 * 9, std::numeric_limits<float>::quiet_NaN());
  expect_refused(problem, "NaN");
}

TEST(Summaries, ThatScoreDoesNotWriteAreRefused) {
  Problem problem = make_problem({3, 8, 5, DType::bf16, DType::bf16, {}}, DotFamily::normal, 1);
  const std::vector<RowSummary> right = summaries_of(problem, {});
  const auto expect_refused = [&](std::vector<RowSummary> summaries) {
    problem.summaries = std::move(summaries);
    std::vector<float> dbias(8);
    BackwardRequest request = problem.request();
    request.dbias = {dbias.data(), DType::f32, 0, false};
    const auto result = backward(problem.head(), request, {});
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().message.rfind("summaries", 0), 0U) << result.error().message;
  };
  expect_refused({right[0], right[1]});
  for (double RowSummary::*member :
       {&RowSummary::mass, &RowSummary::mass_error, &RowSummary::moment, &RowSummary::moment_error}) {
    for (const double bad : {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
      std::vector<RowSummary> wrong = right;
      wrong[1].*member = bad;
      expect_refused(std::move(wrong));
    }
  }
  for (const double bad : {0.1, 1e300, std::numeric_limits<double>::infinity()}) {
    std::vector<RowSummary> wrong = right;
    wrong[2].top = bad;
    expect_refused(std::move(wrong));
  }
}

// Whatever a summary says, the call ends: with an error, or where it happens to fit.
TEST(Summaries, OfAnyNumbersEnd) {
  oracle::Random random(17);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    Problem problem = make_problem({3, 70, 5, DType::f32, DType::f32, {}}, DotFamily::normal, 60, 2);
    if (i % 3 == 0) problem.d_entropy.clear();
    problem.summaries = summaries_of(problem, {});
    const auto size = [&] { return std::ldexp(random.normal(), static_cast<int>(random.below(260)) - 130); };
    for (RowSummary& row : problem.summaries) {
      if (random.below(2) == 0) row.top = static_cast<double>(static_cast<float>(row.top + size()));
      if (random.below(2) == 0) row.mass = random.below(2) == 0 ? 0 : std::fabs(size());
      if (random.below(2) == 0) row.moment = random.below(2) == 0 ? 0 : std::fabs(size());
      row.mass_error = random.below(2) == 0 ? 0 : (row.mass + 1) * 0x1p-31;
      row.moment_error = random.below(2) == 0 ? 0 : (row.moment + 1) * 0x1p-31;
    }
    std::vector<float> dhidden(15);
    BackwardRequest request = problem.request();
    request.dhidden = {dhidden.data(), DType::f32, 5, false};
    BackwardOptions options;
    options.arithmetic = i % 2 == 0 ? Arithmetic::fast : Arithmetic::exact;
    const auto result = backward(problem.head(), request, options);
    if (result) continue;
    ++refused;
    EXPECT_EQ(result.error().code, StatusCode::invalid_argument) << result.error().message;
  }
  EXPECT_GT(refused, 100);
}

// The f64 sums depend on the order they were made in; fast derivatives must not.
TEST(Summaries, FastParametersAreThoseOfAllSumsWithinTheError) {
  oracle::Random random(7);
  int settled = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto sums = [&](double shift) {
      detail::fold::RowSums made{3, 1, true, {}, {}, {}};
      made.mass = detail::exact::Ball::exact((1 + i * 0x1p-7) * (1 + shift));
      made.moment = detail::exact::Ball::exact((3 + i * 0x1p-9) * (1 - shift));
      made.mass.radius = made.moment.radius = detail::exact::Bound::power_of_two(-41);
      return made;
    };
    const double shift = static_cast<double>(random.below(1000)) * 0x1p-54;
    const detail::exact::BigFloat b = detail::exact::BigFloat::from_double(0.5);
    const auto one = detail::backward::dz_row(sums(0x1p-36), 3, {{}, b, 1}, {}, false);
    const auto other = detail::backward::dz_row(sums(0x1p-36 + shift), 3, {{}, b, 1}, {}, false);
    if (!one || !other) continue;
    ++settled;
    EXPECT_EQ(one->mass, other->mass);
    EXPECT_EQ(one->mean_gap, other->mean_gap);
    EXPECT_NEAR(one->mass, sums(0).mass.middle.is_zero() ? 0 : 1 + i * 0x1p-7, 0x1p-30);
  }
  EXPECT_GT(settled, 900);
}

}  // namespace
}  // namespace isologit::test
