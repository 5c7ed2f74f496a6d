// Everything that is made of logits is made of those of CONTRACT.md 1 where the weight has a low-rank addition: results
// are those of a head that has the oracle's logits for weights.
#include <array>

#include "isologit/partial.hpp"
#include "isologit/sample.hpp"
#include "score/low_rank_problem.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using low_rank::make_problem;
using low_rank::Problem;
using oracle::DotFamily;
using oracle::DotShape;

constexpr std::int64_t kRows = 3;
constexpr std::int64_t kVocab = 90;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

class LowRankOutputs : public KernelTest {
 protected:
  LowRankOutputs() {
    head_.weight = problem_.data.weight_view();
    head_.bias = problem_.data.bias_view();
    head_.vocab_size = kVocab;
    head_.lora = problem_.lora();
    for (std::int64_t n = 0; n < kRows; ++n) {
      const auto factors = problem_.factors(n);
      std::vector<float> z;
      for (std::int64_t v = 0; v < kVocab; ++v) z.push_back(problem_.expected(n, v, factors));
      given_.emplace_back(z);
    }
  }

  const Problem problem_ = make_problem({kRows, kVocab, 40, DType::bf16, DType::bf16, DType::f32}, 8, DType::f32,
                                        DType::bf16, DotFamily::normal, DotFamily::normal, 0.375, 3);
  Head head_;
  std::vector<GivenLogits> given_;  // of each row
};

TEST_P(LowRankOutputs, ScoresAreThoseOfTheLogits) {
  head_.transforms = {true, 20.0F, ScaleKind::multiply, 0.75F, TransformOrder::softcap_first};
  const std::vector<std::int64_t> ids = {5, 0, 89};
  const std::vector<float> temperatures = {1.0F, 0.7F, 3.0F};
  const Outputs found = score_all(head_, problem_.data.hidden_view(), ids, temperatures, options(2));
  for (std::int64_t n = 0; n < kRows; ++n) {
    std::vector<float> z = given_[at(n)].z();
    for (float& x : z) x = oracle::transform(x, head_.transforms, temperatures[at(n)]);
    EXPECT_TRUE(row_is_right(found, n, z, ids[at(n)]));
  }
}

TEST_P(LowRankOutputs, ShardsHaveTheirRowsOfB) {
  const std::vector<std::int64_t> ids = {5, 0, 89};
  const Outputs expected = score_all(head_, problem_.data.hidden_view(), ids, {}, options());
  Outputs found(kRows);
  ScoreRequest request;
  request.hidden = problem_.data.hidden_view();
  request.token_ids = ids;
  request.logprobs = found.logprobs.data();
  request.lse = found.lse.data();
  request.entropy = found.entropy.data();
  request.argmax = found.argmax.data();
  request.rank = found.rank.data();
  auto partial = PartialScore::begin(kVocab, head_.weight.cols, {}, request, options());
  ASSERT_TRUE(partial) << partial.error().message;
  bool finished = false;
  while (!finished) {
    for (const auto& [first, last] : {std::array<std::int64_t, 2>{37, kVocab}, std::array<std::int64_t, 2>{0, 37}}) {
      const auto rows_of = [first = first, last = last](const MatrixView& matrix) {
        MatrixView rows = matrix;
        rows.data = static_cast<const char*>(matrix.data) +
                    first * matrix.row_stride * static_cast<std::int64_t>(dtype_size(matrix.dtype));
        rows.rows = last - first;
        return rows;
      };
      Head shard = head_;
      shard.weight = rows_of(head_.weight);
      shard.bias.data = static_cast<const float*>(head_.bias.data) + first;
      shard.bias.size = shard.vocab_size = last - first;
      shard.lora.b = rows_of(head_.lora.b);
      ASSERT_TRUE(partial->absorb({shard, first}));
    }
    finished = *partial->finish_round();
  }
  EXPECT_TRUE(same_rows(found, expected));
}

// Narrower logits are the real sum rounded once, and no rounding of the f32 logit: midpoints tell.
TEST_P(LowRankOutputs, NarrowLogitsAreRoundedOnce) {
  const DotShape shape{1, 64, 9, DType::f32, DType::f32, std::nullopt};
  Problem problem = make_problem(shape, 1, DType::f32, DType::f32, DotFamily::zero_rows, DotFamily::constant, 1, 3);
  oracle::encode(DType::f32, problem.data.hidden.data(), 0, 1);
  problem.data.hidden_values[0] = 1;
  for (std::int64_t k = 0; k < 9; ++k) problem.a.set(0, k, k == 0 ? 1 : 0);
  for (std::int64_t v = 0; v < 64; ++v) {
    // A midpoint of bf16, and by the addition a little beside it, less than f32 sees.
    const double w = 1.0 + static_cast<double>(2 * v + 1) * 0x1p-8;
    oracle::encode(DType::f32, problem.data.weight.data(), at(v * 9), static_cast<float>(w));
    problem.data.weight_values[at(v * 9)] = w;
    problem.b.set(v, 0, static_cast<double>(v % 3 - 1) * 0x1p-60);
  }
  Head head;
  head.weight = problem.data.weight_view();
  head.vocab_size = 64;
  head.lora = problem.lora();
  std::vector<std::uint16_t> found(64);
  ScoreRequest request;
  request.hidden = problem.data.hidden_view();
  request.logits.data = found.data();
  request.logits.dtype = DType::bf16;
  request.logits.count = 64;
  request.logits.row_stride = 64;
  const auto report = score(head, request, options());
  ASSERT_TRUE(report) << report.error().message;
  const auto factors = problem.factors(0);
  for (std::int64_t v = 0; v < 64; ++v) {
    const oracle::Terms terms{problem.data.hidden_row(0), problem.data.weight_row(v), 9};
    const float z = oracle::low_rank_logit(terms, 0, factors, problem.b.values.data() + v, DType::bf16);
    EXPECT_EQ(oracle::decode_bf16(found[at(v)]), static_cast<double>(z)) << "id " << v;
  }
}

TEST_P(LowRankOutputs, SamplesAreThoseOfTheLogits) {
  const std::uint64_t seed = 11;
  const std::uint64_t sequence = 3;
  const std::vector<std::uint32_t> positions = {0, 1, 2};
  const float top_p = 0.9F;
  const auto draw = [&](const Head& head, const MatrixView& hidden, std::span<const std::uint32_t> at_positions) {
    std::vector<std::int64_t> ids(at(hidden.rows));
    std::vector<float> logprobs(at(hidden.rows));
    SampleRequest request;
    request.hidden = hidden;
    request.seeds = {&seed, 1};
    request.sequence_ids = {&sequence, 1};
    request.positions = at_positions;
    request.top_p = {&top_p, 1};
    request.ids = ids.data();
    request.logprobs = logprobs.data();
    const auto report = sample(head, request, options());
    EXPECT_TRUE(report) << report.error().message;
    return std::pair(ids, logprobs);
  };
  const auto [ids, logprobs] = draw(head_, problem_.data.hidden_view(), positions);
  for (std::int64_t n = 0; n < kRows; ++n) {
    const GivenLogits& given = given_[at(n)];
    const auto [expected_ids, expected] = draw(given.head(), given.hidden(1), {&positions[at(n)], 1});
    EXPECT_EQ(ids[at(n)], expected_ids[0]);
    EXPECT_EQ(oracle::bits_of(logprobs[at(n)]), oracle::bits_of(expected[0]));
  }
}

// The shapes that do not fit, and outputs that lie in a factor.
TEST_P(LowRankOutputs, RefusesWhatDoesNotFit) {
  const std::vector<std::int64_t> ids = {5, 0, 89};
  std::vector<float> logprobs(at(kRows));
  ScoreRequest request;
  request.hidden = problem_.data.hidden_view();
  request.token_ids = ids;
  request.logprobs = logprobs.data();
  const auto message = [&](const Head& head) {
    const auto report = score(head, request, options());
    return report ? std::string() : report.error().message;
  };
  Head head = head_;
  head.lora.a.cols = 39;
  EXPECT_EQ(message(head),
            "lora: a of shape [8, 39] and b of [90, 8]; expected [r, 40] and [V, r], V at least 90, the vocabulary's "
            "size");
  head = head_;
  head.lora.b.rows = 89;
  EXPECT_NE(message(head), "");
  head = head_;
  head.lora.b.data = nullptr;
  EXPECT_EQ(message(head), "lora b: data is null");
  head = head_;
  head.lora.scale = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message(head), "lora scale: nan; expected a finite number");
  request.logprobs = static_cast<float*>(const_cast<void*>(head_.lora.a.data));
  EXPECT_EQ(message(head_), "logprobs: the output buffer overlaps the input lora a");
}

ISOLOGIT_FOR_EACH_KERNEL(LowRankOutputs);

}  // namespace
}  // namespace isologit::testing_score
