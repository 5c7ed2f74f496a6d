// Parties that share a vocabulary draw the oracle's tokens, whatever the cuts.
#include <gtest/gtest.h>

#include <bit>

#include "isologit/given_logits.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "parties/meeting.hpp"
#include "sample/draws.hpp"

namespace isologit::test {
namespace {

// given: every other party's logits are.
void expect_draws(const std::vector<float>& logits, const oracle::Cuts& cuts, float temperature,
                  const std::vector<std::int64_t>& split, std::uint64_t seed, bool given = false) {
  const auto vocab = static_cast<std::int64_t>(logits.size());
  constexpr std::int64_t kRows = 3;
  const std::vector<std::uint32_t> positions = {7, 8, 0xFFFFFFFF};
  const std::uint64_t sequence = ~seed;
  const float one = 1;
  Meeting meeting(split.size() - 1);
  std::vector<Draws> draws(split.size() - 1);
  meeting.hold([&](std::size_t p) {
    for (auto* floats : {&draws[p].logprobs, &draws[p].cut_logprobs, &draws[p].log_kept_cut}) floats->resize(kRows);
    draws[p].ids.resize(kRows);
    SampleRequest request;
    request.hidden = {&one, DType::f32, kRows, 1, 0};
    request.temperatures = {&temperature, 1};
    request.seeds = {&seed, 1};
    request.sequence_ids = {&sequence, 1};
    request.positions = positions;
    request.min_p = {&cuts.min_p, 1};
    request.top_k = {&cuts.top_k, 1};
    request.top_p = {&cuts.top_p, 1};
    request.ids = draws[p].ids.data();
    request.logprobs = draws[p].logprobs.data();
    request.cut_logprobs = draws[p].cut_logprobs.data();
    request.log_kept_cut = draws[p].log_kept_cut.data();
    ScoreOptions options;
    options.threads = static_cast<int>(p % 3) + 1;
    options.peers = meeting.peers(p, split[p], vocab);
    const Head head = part_of(head_of(logits), split[p], split[p + 1]);
    const bool own_given = given && p % 2 == 0;
    if (own_given) request.hidden = given_rows_of(logits, split[p], split[p + 1], kRows);
    const auto report = own_given ? sample_given(given_part_of(head, split[p], split[p + 1]), request, options)
                                  : sample(head, request, options);
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report.has_value();
  });
  std::vector<float> last = logits;
  for (float& z : last) z = temperature > 0 ? oracle::temperature(z, temperature) : z;
  const std::vector<std::uint8_t> mask(logits.size(), 1);
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  for (std::size_t i = 0; i < kRows; ++i) {
    const oracle::Sample expected = temperature == 0 ? oracle::sample_greedy(last, mask)
                                                     : oracle::sample(last, mask, cuts, {seed, sequence, positions[i]});
    for (const Draws& got : draws) {
      EXPECT_EQ(got.ids[i], expected.id);
      EXPECT_EQ(bits(got.logprobs[i]), bits(expected.logprob));
      EXPECT_EQ(bits(got.cut_logprobs[i]), bits(expected.logprob_cut));
      EXPECT_EQ(bits(got.log_kept_cut[i]), bits(expected.log_kept_cut));
    }
  }
}

TEST(Parties, DrawTheOraclesTokens) {
  const std::vector<oracle::Cuts> all_cuts = {{0, 0, 1},    {0.1F, 0, 1}, {0, 1, 1},          {0, 5, 1},
                                              {0, 0, 0.5F}, {0, 4, 0.5F}, {0.02F, 20, 0.75F}, {0, 0, 1 - 0x1p-24F}};
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const std::vector<float> logits = oracle::make_row(oracle::row_families[seed], 70, seed);
    for (std::size_t i = 0; i < all_cuts.size(); ++i) {
      expect_draws(logits, all_cuts[i], 0.7F, splits_of(70)[(seed + i) % 5], seed);
      expect_draws(logits, all_cuts[i], 0.7F, splits_of(70)[(seed + i) % 5], seed, true);
    }
    expect_draws(logits, {}, 0, splits_of(70)[3], seed);
    ASSERT_FALSE(HasFailure()) << name_of(oracle::row_families[seed]) << " seed " << seed;
  }
}

// The end of these cuts lies beyond the list of the first pass: searches and splits.
TEST(Parties, DrawWhereACutNeedsFurtherPasses) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 1500, 0);
  expect_draws(logits, {0, 0, 0.999F}, 1, splits_of(1500)[4], 5);
  expect_draws(logits, {0, 0, 0.999F}, 1, splits_of(1500)[4], 5, true);
  expect_draws(logits, {0, 1200, 1}, 1, splits_of(1500)[2], 5);
  expect_draws(std::vector<float>(1100, 2.5F), {0, 0, 0.95F}, 1, splits_of(1100)[3], 6);
}

}  // namespace
}  // namespace isologit::test
