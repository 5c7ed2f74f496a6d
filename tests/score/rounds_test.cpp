// Rows that f64 cannot decide take further rounds, at twice the precision each time, and come out right.
#include <algorithm>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/hard_rows.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

class Rounds : public KernelTest {};

std::vector<float> hard_pairs() {
  std::vector<float> xs(hard_lse.begin(), hard_lse.end());
  xs.insert(xs.end(), hard_entropy.begin(), hard_entropy.end());
  return xs;
}

// Row n has the logits 0 and xs[n], and every one is right for this id; returns the call's report.
ScoreReport score_pairs(const std::vector<float>& xs, std::int64_t id, const ScoreOptions& options) {
  const std::vector<float> weight = {0, 1};
  Head head;
  head.weight = matrix(weight, 2, 1);
  head.vocab_size = 2;
  const auto rows = static_cast<std::int64_t>(xs.size());
  const std::vector<std::int64_t> ids(xs.size(), id);
  const Outputs outputs = score_all(head, matrix(xs, rows, 1), ids, {}, options);
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::vector<float> z = {0, xs[static_cast<std::size_t>(n)]};
    EXPECT_TRUE(row_is_right(outputs, n, z, id)) << std::hexfloat << z[1];
  }
  return outputs.report;
}

TEST_P(Rounds, RowsNearABoundaryAreDecidedInAFurtherRound) {
  for (const float x : hard_pairs()) {
    const ScoreReport report = score_pairs({x}, 0, options());
    EXPECT_EQ(report.undecided_rows, 1) << std::hexfloat << x;
    EXPECT_EQ(report.rounds, 2);
  }
}

TEST_P(Rounds, DecidedRowsAmongThemKeepTheirResults) {
  oracle::Random random(5);
  std::vector<float> xs;
  const std::vector<float> hard = hard_pairs();
  for (std::size_t i = 0; i < 300; ++i) {
    xs.push_back(i % 60 == 59 ? hard[i / 60] : -static_cast<float>(0.125 + 8 * random.uniform()));
  }
  for (const std::int64_t id : {0, 1}) {
    for (const int threads : {1, 3}) {
      const ScoreReport report = score_pairs(xs, id, options(threads));
      // The reference has no f64 sums; others decide all but the hard rows.
      EXPECT_EQ(report.undecided_rows, is_reference() ? 300 : 5);
    }
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

ISOLOGIT_FOR_EACH_KERNEL(Rounds);

}  // namespace
}  // namespace isologit::testing_score
