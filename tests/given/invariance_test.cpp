// The bits of given logits' results do not depend on what a row is computed with: threads, other rows, other outputs.
#include "given/support.hpp"
#include "oracle/cases.hpp"
#include "score/support.hpp"

namespace isologit::testing_given {
namespace {

using oracle::RowFamily;

class GivenInvariance : public testing_score::KernelTest {
 protected:
  Given many_rows() const {
    std::vector<std::vector<float>> rows;
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      for (const RowFamily family : oracle::row_families) {
        rows.push_back(oracle::make_row(family, is_reference() ? 20 : 500, seed));
      }
    }
    Given given = make_given(rows);
    given.draw_ids(2, 9);
    return given;
  }
};

TEST_P(GivenInvariance, Threads) {
  const Given given = many_rows();
  const auto one = score_given(given, options(1)).bits();
  for (const int threads : {2, 3, 7, 64}) EXPECT_EQ(score_given(given, options(threads)).bits(), one) << threads;
}

// One row on its own, whose vocabulary the threads share, is the row among others.
TEST_P(GivenInvariance, RowsAlone) {
  const Given given = many_rows();
  const Results all = score_given(given, options(2));
  for (std::int64_t i = 0; i < given.rows; ++i) {
    const auto row = given.values.begin() + i * given.vocab;
    Given alone = make_given({std::vector<float>(row, row + given.vocab)});
    const auto ids = given.token_ids.begin() + i * given.ids_per_row;
    alone.ids_per_row = given.ids_per_row;
    alone.token_ids.assign(ids, ids + given.ids_per_row);
    const auto at = static_cast<std::size_t>(i);
    Results expected;
    expected.logprobs.assign(all.logprobs.begin() + i * given.ids_per_row,
                             all.logprobs.begin() + (i + 1) * given.ids_per_row);
    expected.lse = {all.lse[at]};
    expected.entropy = {all.entropy[at]};
    expected.log_softmax.assign(all.log_softmax.begin() + i * given.vocab,
                                all.log_softmax.begin() + (i + 1) * given.vocab);
    for (const int threads : {1, 3, 16}) expect_same(score_given(alone, options(threads)), expected, "alone");
  }
}

TEST_P(GivenInvariance, OutputsOnTheirOwn) {
  const Given given = many_rows();
  const Results all = score_given(given, options());
  std::vector<float> lse(all.lse.size(), 7);
  GivenLogitsRequest request;
  request.logits = given.view();
  request.token_ids = given.token_ids;
  request.ids_per_row = given.ids_per_row;
  request.lse = lse.data();
  ASSERT_TRUE(score_logits(request, options()).has_value());
  Results one;
  one.lse = lse;
  Results right;
  right.lse = all.lse;
  expect_same(one, right, "lse alone");
  std::vector<float> dense(all.log_softmax.size(), 7);
  request.lse = nullptr;
  request.log_softmax = dense.data();
  request.log_softmax_row_stride = given.vocab;
  ASSERT_TRUE(score_logits(request, options()).has_value());
  one = {};
  right = {};
  one.log_softmax = dense;
  right.log_softmax = all.log_softmax;
  expect_same(one, right, "log_softmax alone");
}

// Logits made by a head and then given back say what the head says.
TEST_P(GivenInvariance, OfAHeadsOwnLogits) {
  const testing_score::GivenLogits head(oracle::make_row(RowFamily::normal, is_reference() ? 20 : 300, 4));
  const std::vector<std::int64_t> ids = {0, 5, 19};
  const testing_score::Outputs of_head = score_row(head, ids, options());
  Given given = make_given({head.z(), head.z(), head.z()});
  given.token_ids = ids;
  const Results found = score_given(given, options());
  Results right = found;
  right.logprobs = of_head.logprobs;
  right.lse = of_head.lse;
  right.entropy = of_head.entropy;
  expect_same(found, right, "of a head");
}

ISOLOGIT_FOR_EACH_KERNEL(GivenInvariance);

}  // namespace
}  // namespace isologit::testing_given
