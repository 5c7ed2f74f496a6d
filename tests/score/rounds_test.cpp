// Rows that f64 cannot decide take further rounds, at twice the precision each time, and come out right.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "fold/exact_distribution.hpp"
#include "fold/finish.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/hard_rows.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

class Rounds : public KernelTest {};

// Two logits 0 and x, where a result of the pair lies within 2^-45 of the boundary between two roundings.
TEST_P(Rounds, RowsNearABoundaryAreDecidedInAFurtherRound) {
  for (const HardResult result : hard_results) {
    const std::vector<float> hard = hard_pairs(result, instrumented ? 1'000'000 : 8'000'000, 8);
    ASSERT_EQ(hard.size(), 8U);
    // Row n has the logits 0 and x_n.
    Head head;
    const std::vector<float> weight = {0, 1};
    head.weight = matrix(weight, 2, 1);
    head.vocab_size = 2;
    const auto rows = static_cast<std::int64_t>(hard.size());
    const std::vector<std::int64_t> ids(hard.size(), 0);
    const Outputs outputs = score_all(head, matrix(hard, rows, 1), ids, {}, options(2));
    for (std::int64_t n = 0; n < rows; ++n) {
      const std::vector<float> z = {0, hard[static_cast<std::size_t>(n)]};
      EXPECT_TRUE(row_is_right(outputs, n, z, 0)) << std::hexfloat << z[1];
    }
    EXPECT_GT(outputs.report.undecided_rows, 0);
    EXPECT_GE(outputs.report.rounds, 2);
    if (is_reference()) {
      EXPECT_EQ(outputs.report.undecided_rows, rows);
    }
  }
}

// The same among rows that are decided at once, and in several blocks.
TEST_P(Rounds, DecidedRowsKeepTheirResults) {
  const std::vector<float> hard = hard_pairs(HardResult::lse, instrumented ? 1'000'000 : 8'000'000, 4);
  oracle::Random random(5);
  std::vector<float> hidden;
  for (int i = 0; i < 300; ++i) {
    hidden.push_back(i % 60 == 59 ? hard[static_cast<std::size_t>(i / 60) % 4]
                                  : -static_cast<float>(0.125 + 8 * random.uniform()));
  }
  Head head;
  const std::vector<float> weight = {0, 1};
  head.weight = matrix(weight, 2, 1);
  head.vocab_size = 2;
  const std::vector<std::int64_t> ids(300, 1);
  const Outputs outputs = score_all(head, matrix(hidden, 300, 1), ids, {}, options(3));
  for (std::int64_t n = 0; n < 300; ++n) {
    ASSERT_TRUE(row_is_right(outputs, n, std::vector<float>{0, hidden[static_cast<std::size_t>(n)]}, 1));
  }
  if (!is_reference()) {
    EXPECT_LT(outputs.report.undecided_rows, 100);
  }
}

// The f64 sums hold for logits up to 2^20; above, a row goes to the exact rounds at once.
TEST_P(Rounds, LogitsAbove2To20) {
  for (const std::vector<float>& z :
       {std::vector<float>{0x1.000002p20F, 0x1p20F, 0x1p20F - 0.125F}, std::vector<float>{0x1p21F, 0x1p21F, 3},
        std::vector<float>{-0x1p21F, -0x1p22F, -0x1.000002p21F}, std::vector<float>{0x1p100F, 0x1p100F, -0x1p100F}}) {
    const std::vector<std::int64_t> ids = {0, 1, 2};
    const Outputs outputs = score_row(GivenLogits(z), ids, options());
    EXPECT_TRUE(rows_are_right(outputs, z, ids));
    EXPECT_EQ(outputs.report.undecided_rows, 3);
    EXPECT_EQ(outputs.report.rounds, 2);
  }
}

// What one round concludes from sums of the given precision.
fold::RowResults conclude(const std::vector<float>& z, float target, std::size_t limbs) {
  const auto top = std::max_element(z.begin(), z.end());
  fold::ExactDistribution sums{*top, top - z.begin(), limbs, 0, {}};
  sums.absorb(z.data(), static_cast<std::int64_t>(z.size()), 0);
  return fold::finish(sums.finish(), *top, z.size() > 1, {true, true, true, target}, limbs);
}

// At any precision a result is either right or undecided, and doubling it decides in the end.
TEST(ExactRounds, AreRightOrUndecidedAtEveryPrecision) {
  int undecided = 0;
  std::vector<std::vector<float>> rows;
  for (const HardResult result : hard_results) {
    for (const float x : hard_pairs(result, 500'000, 4)) rows.push_back({0, x});
  }
  for (const oracle::RowFamily family :
       {oracle::RowFamily::normal, oracle::RowFamily::near_certain, oracle::RowFamily::midpoint_gap,
        oracle::RowFamily::top_ties, oracle::RowFamily::subnormal}) {
    for (std::uint64_t seed = 0; seed < 11; ++seed) rows.push_back(make_row(family, 20, seed));
  }
  for (const std::vector<float>& z : rows) {
    const oracle::Row row(z);
    bool decided = false;
    for (std::size_t limbs = 1; limbs <= 16; limbs *= 2) {
      const fold::RowResults results = conclude(z, z.back(), limbs);
      EXPECT_TRUE(results.decided || !decided) << limbs << " limbs";
      decided = results.decided;
      if (!decided) {
        ++undecided;
        continue;
      }
      EXPECT_EQ(oracle::bits_of(results.lse), oracle::bits_of(row.lse()));
      EXPECT_EQ(oracle::bits_of(results.logprob),
                oracle::bits_of(row.logprob(static_cast<std::int64_t>(z.size()) - 1)));
      EXPECT_EQ(oracle::bits_of(results.entropy), oracle::bits_of(row.entropy()));
    }
    EXPECT_TRUE(decided);
  }
  EXPECT_GT(undecided, 0);
}

ISOLOGIT_FOR_EACH_KERNEL(Rounds);

}  // namespace
}  // namespace isologit::testing_score
