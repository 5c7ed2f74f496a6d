// Gradients of a vocabulary that parties share are the oracle's: dhidden of all, dweight and dbias of each one's rows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backward/problem.hpp"
#include "isologit/score.hpp"
#include "parties/meeting.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

// The parts of all parties put together; dhidden is the last party's, and that of all.
Gradients run_parties(const Problem& problem, const std::vector<std::int64_t>& split, BackwardOptions options) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  Gradients all{
      {}, std::vector<float>(size(problem.vocab() * problem.cols())), std::vector<float>(size(problem.vocab())), {}};
  std::vector<std::vector<float>> dhidden(split.size() - 1, std::vector<float>(size(problem.rows() * problem.cols())));
  Meeting meeting(split.size() - 1);
  meeting.hold([&](std::size_t p) {
    BackwardOptions own = options;
    own.threads = static_cast<int>(p % 3) + 1;
    own.peers = meeting.peers(p, split[p], problem.vocab());
    BackwardRequest request = problem.request();
    request.dhidden = {dhidden[p].data(), DType::f32, problem.cols(), false};
    request.dweight = {all.dweight.data() + split[p] * problem.cols(), DType::f32, problem.cols(), false};
    request.dbias = {all.dbias.data() + split[p], DType::f32, problem.vocab(), false};
    const auto report = backward(part_of(problem.head(), split[p], split[p + 1]), request, own);
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report.has_value();
  });
  for (const std::vector<float>& one : dhidden) expect_same_bits(one, dhidden[0], "dhidden of the parties");
  all.dhidden = dhidden.back();
  return all;
}

BackwardOptions exact() {
  BackwardOptions options;
  options.arithmetic = Arithmetic::exact;
  return options;
}

TEST(Parties, ExactGradientsAreTheOracles) {
  for (const DotFamily family : oracle::dot_families) {
    Problem problem = make_problem({5, 37, 11, DType::bf16, DType::bf16, DType::f32}, family, 7, 2);
    problem.temperatures = {0.7F};
    const Expected expected = expect(problem);
    for (const auto& split : splits_of(37)) {
      expect_same_bits(run_parties(problem, split, exact()), expected.gradients,
                       fmt::format("{} {}", name_of(family), split.size() - 1));
    }
  }
}

TEST(Parties, ExactGradientsOfEveryWidth) {
  // More ids than a chunk, derivatives that f64 does not settle, and sums that two doubles do not hold.
  const Problem wide = make_problem({20, 1500, 4, DType::bf16, DType::bf16, {}}, DotFamily::normal, 61);
  expect_same_bits(run_parties(wide, splits_of(1500)[4], exact()), expect(wide).gradients, "wide");
  Problem reference = make_problem({3, 30, 5, DType::bf16, DType::bf16, {}}, DotFamily::outliers, 62);
  reference.transforms = {true, 1.5F, ScaleKind::divide, 3.3F};
  BackwardOptions options = exact();
  options.kernel = "reference";  // every derivative and every sum by definition
  expect_same_bits(run_parties(reference, splits_of(30)[3], options), expect(reference).gradients, "reference");
}

// With what the forward pass of all parties left, backward passes over the weight once.
TEST(Parties, SummariesOfAForwardPass) {
  Problem problem = make_problem({6, 300, 8, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 9);
  const std::vector<std::int64_t> split = splits_of(300)[4];
  std::vector<std::vector<RowSummary>> summaries(split.size() - 1, std::vector<RowSummary>(6));
  Meeting meeting(split.size() - 1);
  meeting.hold([&](std::size_t p) {
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    request.summaries = summaries[p].data();
    ScoreOptions options;
    options.peers = meeting.peers(p, split[p], 300);
    return score(part_of(problem.head(), split[p], split[p + 1]), request, options).has_value();
  });
  problem.summaries = summaries[2];
  expect_same_bits(run_parties(problem, split, exact()), expect(problem).gradients, "summaries");
}

// dhidden in a fixed order: the same bits on all parties, near the oracle's.
TEST(Parties, FastGradientsAreWithinTheirBound) {
  const Problem problem = make_problem({6, 300, 8, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 9);
  const Gradients got = run_parties(problem, splits_of(300)[4], {});
  const Expected expected = expect(problem);
  for (std::int64_t n = 0; n < 6; ++n) {
    double reach = 0;
    for (std::int64_t v = 0; v < 300; ++v) {
      double norm = 0;
      for (std::int64_t k = 0; k < 8; ++k) norm += std::pow(problem.data.weight_row(v)[k], 2);
      reach += std::fabs(static_cast<double>(expected.dz[static_cast<std::size_t>(n * 300 + v)])) * std::sqrt(norm);
    }
    for (std::size_t i = static_cast<std::size_t>(n) * 8; i < static_cast<std::size_t>(n + 1) * 8; ++i) {
      EXPECT_LE(std::fabs(static_cast<double>(got.dhidden[i]) - static_cast<double>(expected.gradients.dhidden[i])),
                0x1p-16 * reach);
    }
  }
}

}  // namespace
}  // namespace isologit::test
