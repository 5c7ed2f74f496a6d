// The example model on captured rows of real text, from its files to its results.
#include <string>

#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

class Example : public KernelTest {};

// Every 16th row; the long tests take all.
TEST_P(Example, CapturedRowsAreTheOracles) {
  const std::string model = ISOLOGIT_EXAMPLE;
  const Result<io::Checkpoint> checkpoint = io::open_checkpoint(model);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Result<io::Captured> captured = io::read_captured(model + "/captured.safetensors");
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

ISOLOGIT_FOR_EACH_KERNEL(Example);

}  // namespace
}  // namespace isologit::testing_score
