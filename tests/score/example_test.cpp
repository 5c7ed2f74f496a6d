// The example model on captured rows of real text, from its files to its results.
#include <algorithm>
#include <string>

#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/everything.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

class Example : public KernelTest {};

// Every 16th row; the long tests take all.
TEST_P(Example, CapturedRowsAreTheOracles) {
  const std::string examples = ISOLOGIT_EXAMPLES;
  const Result<detail::io::Checkpoint> checkpoint = detail::io::open_checkpoint(examples + "/tiny-qwen3");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Result<detail::io::Captured> captured =
      detail::io::read_captured(examples + "/captured/tiny-qwen3.safetensors");
  ASSERT_TRUE(captured) << captured.error().message;
  const Head& head = checkpoint->head;
  MatrixView hidden = captured->hidden;
  std::span<const std::int64_t> ids = captured->token_ids;
  if (is_reference()) {
    // One sequence's last rows, an ignored one among them.
    hidden.data = static_cast<const char*>(hidden.data) + 2 * 124 * hidden.row_stride;
    hidden.rows = 5;
    ids = ids.subspan(124, 5);
  }
  const Outputs outputs = score_all(head, hidden, ids, captured->temperatures, options(2));
  EXPECT_EQ(outputs.report.rows, is_reference() ? 4 : 2032);

  const auto cols = static_cast<std::size_t>(head.weight.cols);
  const auto vocab = static_cast<std::size_t>(head.vocab_size);
  const std::vector<double> weight = oracle::decode_all(head.weight.dtype, head.weight.data, vocab * cols);
  const std::int64_t step = is_reference() ? 1 : instrumented ? 512 : 16;
  for (std::int64_t n = 0; n < hidden.rows; n += step) {
    const std::int64_t id = ids[static_cast<std::size_t>(n)];
    if (id == -100) {
      EXPECT_EQ(outputs.logprobs[static_cast<std::size_t>(n)], 0.0F);
      continue;
    }
    const std::vector<double> h =
        oracle::decode_all(hidden.dtype, static_cast<const char*>(hidden.data) + 2 * n * hidden.row_stride, cols);
    std::vector<float> z;
    for (std::size_t v = 0; v < vocab; ++v) z.push_back(oracle::logit(h.data(), &weight[v * cols], cols));
    ASSERT_TRUE(row_is_right(outputs, n, z, id));
  }
}

// Rows of real text with all that a score can be asked for, over supports such as a sampler leaves: the 300 first ids
// by rank for a replay, and banned ids.
TEST_P(Example, EveryOutputIsTheOracles) {
  if (is_reference()) GTEST_SKIP() << "the reference takes the first test's rows";
  const std::string examples = ISOLOGIT_EXAMPLES;
  const Result<detail::io::Checkpoint> checkpoint = detail::io::open_checkpoint(examples + "/tiny-qwen3");
  const Result<detail::io::Captured> captured =
      detail::io::read_captured(examples + "/captured/tiny-qwen3.safetensors");
  ASSERT_TRUE(checkpoint && captured);
  const Head& head = checkpoint->head;
  const std::int64_t first = 700;
  MatrixView hidden = captured->hidden;
  hidden.data = static_cast<const char*>(hidden.data) + 2 * first * hidden.row_stride;
  hidden.rows = 4;
  const auto cols = static_cast<std::size_t>(head.weight.cols);
  const auto vocab = static_cast<std::size_t>(head.vocab_size);
  const std::vector<double> weight = oracle::decode_all(head.weight.dtype, head.weight.data, vocab * cols);
  for (std::size_t n = 0; n < 4; ++n) {
    const auto* row = static_cast<const char*>(hidden.data) + 2 * static_cast<std::int64_t>(n) * hidden.row_stride;
    const std::vector<double> h = oracle::decode_all(hidden.dtype, row, cols);
    std::vector<float> z;
    for (std::size_t v = 0; v < vocab; ++v) z.push_back(oracle::logit(h.data(), &weight[v * cols], cols));
    // A case over one row; the others of the call are not asked for.
    Case tested(z, 2);
    tested.k = 50;
    tested.has_banned = true;
    std::vector<std::int64_t> kept = oracle::Row(z).top_k(300);
    std::sort(kept.begin(), kept.end());
    tested.kept = {};
    tested.banned = {};
    for (std::size_t i = 0; i < 4; ++i) {
      tested.kept.add(kept);
      tested.banned.add({kept[i], kept[200 + i], kept[299]});
      tested.token_ids[i] = captured->token_ids[static_cast<std::size_t>(first) + i];
    }
    Everything got(tested);
    ScoreRequest request = tested.request();
    request.hidden = hidden;
    const std::vector<std::int64_t> list = {static_cast<std::int64_t>(n)};
    request.row_list = list;
    request.use_row_list = true;
    got.ask(request);
    ASSERT_TRUE(score(head, request, options(2)));
    expect_row_is_right(tested, got, n);
  }
}

ISOLOGIT_FOR_EACH_KERNEL(Example);

}  // namespace
}  // namespace isologit::testing_score
