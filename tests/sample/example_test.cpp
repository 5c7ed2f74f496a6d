// Draws from the example model on captured rows of real text, against the oracle.
#include <gtest/gtest.h>

#include <bit>

#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "oracle/logit.hpp"
#include "sample/draws.hpp"

namespace isologit::test {
namespace {

TEST(SampleExample, EqualsTheOracle) {
  const std::string examples = ISOLOGIT_EXAMPLES;
  const Result<detail::io::Checkpoint> checkpoint = detail::io::open_checkpoint(examples + "/tiny-qwen3");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Result<detail::io::Captured> captured =
      detail::io::read_hidden_rows(examples + "/captured/tiny-qwen3.safetensors");
  ASSERT_TRUE(captured) << captured.error().message;
  const Head& head = checkpoint->head;
  const auto cols = static_cast<std::size_t>(head.weight.cols);
  const auto vocab = static_cast<std::size_t>(head.vocab_size);
  const std::vector<double> weight = oracle::decode_all(head.weight.dtype, head.weight.data, vocab * cols);
  for (const std::int64_t row : {5, 640, 1999}) {
    const auto* bytes = static_cast<const char*>(captured->hidden.data) + 2 * row * captured->hidden.row_stride;
    const std::vector<double> h = oracle::decode_all(captured->hidden.dtype, bytes, cols);
    std::vector<float> z;
    for (std::size_t v = 0; v < vocab; ++v) z.push_back(oracle::logit(h.data(), &weight[v * cols], cols));
    for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0, 50, 0.9F}, {0.02F, 0, 0.8F}, {0, 0, 0.999F}}) {
      const oracle::DrawKey key{7, 1, static_cast<std::uint32_t>(row)};
      const float temperature = 0.8F;
      std::int64_t id = -1;
      float logprob = 0;
      SampleRequest request;
      request.hidden = captured->hidden;
      request.hidden.data = bytes;
      request.hidden.rows = 1;
      request.temperatures = {&temperature, 1};
      request.seeds = {&key.seed, 1};
      request.sequence_ids = {&key.sequence, 1};
      request.positions = {&key.position, 1};
      request.min_p = {&cuts.min_p, 1};
      request.top_k = {&cuts.top_k, 1};
      request.top_p = {&cuts.top_p, 1};
      request.ids = &id;
      request.logprobs = &logprob;
      ASSERT_TRUE(sample(head, request));
      std::vector<float> last = z;
      for (float& logit : last) logit = oracle::temperature(logit, temperature);
      const oracle::Sample expected = oracle::sample(last, {}, cuts, key);
      EXPECT_EQ(id, expected.id);
      EXPECT_EQ(std::bit_cast<std::uint32_t>(logprob), std::bit_cast<std::uint32_t>(expected.logprob));
    }
  }
}

}  // namespace
}  // namespace isologit::test
