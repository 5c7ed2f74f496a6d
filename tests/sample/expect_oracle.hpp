#pragma once

#include <gtest/gtest.h>

#include <bit>

#include "oracle/logit.hpp"
#include "sample/draws.hpp"

namespace isologit::test {

// Every draw of the plan equals the oracle's, bit for bit. Returns the report.
inline SampleReport expect_oracle(const std::vector<float>& logits, const Plan& plan) {
  const Result<Draws> draws = draw(logits, plan);
  if (!draws) {
    ADD_FAILURE() << draws.error().message;
    return {};
  }
  std::vector<float> last = logits;
  if (plan.temperature > 0) {
    for (float& z : last) z = oracle::temperature(z, plan.temperature);
  }
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  for (std::size_t i = 0; i < draws->ids.size(); ++i) {
    oracle::DrawKey key = plan.key;
    key.position += static_cast<std::uint32_t>(i);
    const std::vector<std::uint8_t> mask = mask_of(plan.support, i, last.size());
    const oracle::Sample expected =
        plan.temperature == 0 ? oracle::sample_greedy(last, mask) : oracle::sample(last, mask, plan.cuts, key);
    SCOPED_TRACE(testing::Message() << "kernel " << draws->report.kernel << " vocab " << logits.size() << " draw " << i
                                    << " T " << plan.temperature << " min_p " << plan.cuts.min_p << " top_k "
                                    << plan.cuts.top_k << " top_p " << plan.cuts.top_p);
    EXPECT_EQ(draws->ids[i], expected.id);
    EXPECT_EQ(bits(draws->logprobs[i]), bits(expected.logprob)) << draws->logprobs[i] << ' ' << expected.logprob;
    EXPECT_EQ(bits(draws->cut_logprobs[i]), bits(expected.logprob_cut))
        << draws->cut_logprobs[i] << ' ' << expected.logprob_cut;
    EXPECT_EQ(bits(draws->log_kept_cut[i]), bits(expected.log_kept_cut))
        << draws->log_kept_cut[i] << ' ' << expected.log_kept_cut;
  }
  return draws->report;
}

}  // namespace isologit::test
