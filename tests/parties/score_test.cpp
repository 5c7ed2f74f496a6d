// Parties that share a vocabulary: all have the oracle's score, and what they exchange does not grow with it.
#include <gtest/gtest.h>

#include <functional>

#include "isologit/given_logits.hpp"
#include "isologit/partial.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "parties/meeting.hpp"
#include "score/everything.hpp"

namespace isologit::testing_score {
namespace {

using test::Meeting;

std::vector<std::string> exact_kernels() {
  std::vector<std::string> names = runnable_kernels();
  std::erase_if(names, [](const std::string& name) { return name == "reference"; });
  return names;
}

// What the parties of a case have, each told its place, is the oracle's. `part` is called with a party, its first id
// and the end of its ids, and what it is to ask for.
using Part = std::function<Result<ScoreReport>(const Case&, std::size_t, std::int64_t, std::int64_t, ScoreRequest&,
                                               ScoreOptions&)>;
void expect_parties_are_right(std::uint64_t seed, const Part& part) {
  std::vector<float> z = oracle::make_row(oracle::row_families[seed % 12], 90, seed);
  if (seed % 2 == 1) z[7] = z[3] = 0x1.1p20F;  // beyond f64's sums: an exact round
  const Case tested(z, seed);
  const auto split = test::splits_of(90)[seed % 5];
  Meeting meeting(split.size() - 1);
  std::vector<Everything> results(split.size() - 1, Everything(tested));
  meeting.hold([&](std::size_t p) {
    ScoreRequest request = tested.request();
    results[p].ask(request, Everything::kAll - (1U << 11));  // but for the logits
    ScoreOptions options;
    options.threads = static_cast<int>(p % 3) + 1;
    options.peers = meeting.peers(p, split[p], 90);
    const auto report = part(tested, p, split[p], split[p + 1], request, options);
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report.has_value();
  });
  for (Everything& result : results) {
    for (std::size_t i = 0; i < result.logits.size(); ++i) {
      result.logits[i] = oracle::temperature(z[i % z.size()], tested.temperatures[i / z.size()]);
    }
    expect_rows_are_right(tested, result);
  }
  ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed << " parties " << results.size();
}

// The parties' kernels and numbers of threads differ, and so do the roundings of their f64 sums.
TEST(Parties, EveryOutputIsTheOracles) {
  const std::vector<std::string> kernels = exact_kernels();
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    ASSERT_NO_FATAL_FAILURE(
        expect_parties_are_right(seed, [&](const Case& tested, std::size_t p, std::int64_t first, std::int64_t last,
                                           ScoreRequest& request, ScoreOptions& options) {
          options.kernel = kernels[p % kernels.size()];
          return score(test::part_of(tested.given.head(), first, last), request, options);
        }));
  }
}

// Parties whose logits are given have the oracle's results, beside ones that make theirs and alone.
TEST(Parties, GivenLogitsOfAHead) {
  for (std::uint64_t seed = 0; seed < 15; ++seed) {
    ASSERT_NO_FATAL_FAILURE(
        expect_parties_are_right(seed, [&](const Case& tested, std::size_t p, std::int64_t first, std::int64_t last,
                                           ScoreRequest& request, ScoreOptions& options) {
          if (p % 2 == 1 && seed % 3 != 0) {
            return score(test::part_of(tested.given.head(), first, last), request, options);
          }
          request.hidden = test::given_rows_of(tested.given.z(), first, last, tested.rows);
          return score_given(test::given_part_of(tested.given.head(), first, last), request, options);
        }));
  }
}

// Without peers, transforms are taken too: 2 z of a scale of 1/2 is z.
TEST(Parties, GivenLogitsAreTransformed) {
  const std::vector<float> z = oracle::make_row(oracle::RowFamily::normal, 60, 4);
  std::vector<float> doubled(z);
  for (float& one : doubled) one *= 2;
  float lse = 0;
  ScoreRequest request;
  request.hidden = test::given_rows_of(doubled, 0, 60, 1);
  request.lse = &lse;
  Head head;
  head.vocab_size = 60;
  head.transforms.scale_kind = ScaleKind::multiply;
  head.transforms.scale = 0.5F;
  ASSERT_TRUE(score_given(head, request).has_value());
  EXPECT_EQ(lse, oracle::Row(z, std::vector<std::uint8_t>(60, 1)).lse());
}

TEST(Parties, WhatHeadsOfGivenLogitsMayNotHave) {
  const std::vector<float> z(10, 1.5F);
  float lse = 0;
  ScoreRequest request;
  request.hidden = test::given_rows_of(z, 0, 10, 1);
  request.lse = &lse;
  const auto told = [&](const Head& head) {
    const auto report = score_given(head, request);
    return report ? std::string() : report.error().message;
  };
  Head head;
  head.vocab_size = 10;
  EXPECT_EQ(told(head), "");
  head.vocab_size = 11;
  EXPECT_EQ(told(head), "vocab_size: 11; expected 1 to 10, the logits of a row in hidden");
  head.vocab_size = 0;
  EXPECT_EQ(told(head), "vocab_size: 0; expected 1 to 10, the logits of a row in hidden");
  const std::string none =
      "weight: given, or its encoding, a bias or lora, and so are logits, as hidden; expected none";
  head.vocab_size = 10;
  head.bias = {z.data(), DType::f32, 10};
  EXPECT_EQ(told(head), none);
  head.bias = {};
  head.weight = {z.data(), DType::f32, 10, 1, 1};
  EXPECT_EQ(told(head), none);
  head.weight = {};
  head.lora.a = {z.data(), DType::f32, 1, 10, 10};
  EXPECT_EQ(told(head), none);
  head.lora = {};
  std::vector<float> logits(10);
  request.logits = {logits.data(), DType::f32, 10, 0, 10};
  EXPECT_EQ(told(head), "logits: asked for, and the logits are given; expected other outputs");
  request.logits = {};
  Meeting meeting(2);
  ScoreOptions options;
  options.peers = meeting.peers(0, 5, 10);
  EXPECT_EQ(score_given(head, request, options).error().message,
            "peers: 10 ids from 5 on; expected ids of the vocabulary [0, 10)");
}

// f64 sums of many shards differ with the order of merges; what parties make of them does not, so none goes on alone.
TEST(Parties, MergedStatesAreTheSameBytesInAnyOrder) {
  constexpr std::size_t kParties = 13;
  oracle::Random random(3);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<float> z(260);
    for (float& one : z) one = static_cast<float>(8 * random.normal());
    const GivenLogits given(z);
    std::vector<std::vector<float>> results(kParties, std::vector<float>(2));
    std::vector<PartialScore> partials;
    std::vector<std::vector<std::byte>> states;
    for (std::size_t p = 0; p < kParties; ++p) {
      ScoreRequest request;
      request.hidden = given.hidden(1);
      request.lse = results[p].data();
      request.entropy = results[p].data() + 1;
      partials.push_back(std::move(*PartialScore::begin(260, 1, {}, request)));
      const auto first = static_cast<std::int64_t>(20 * p);
      ASSERT_TRUE(partials[p].absorb({test::part_of(given.head(), first, first + 20), first}).has_value());
      states.push_back(*partials[p].state());
    }
    for (std::size_t p = 0; p < kParties; ++p) {
      std::vector<std::size_t> others;
      for (std::size_t q = 0; q < kParties; ++q) {
        if (q != p) others.push_back(q);
      }
      for (std::size_t i = others.size(); i > 1; --i) std::swap(others[i - 1], others[random.below(i)]);
      for (const std::size_t q : others) ASSERT_TRUE(partials[p].merge(states[q]).has_value());
      ASSERT_EQ(*partials[p].state(), *partials[0].state()) << "party " << p << " seed " << seed;
    }
  }
}

std::size_t bytes_of_a_row(std::int64_t vocab) {
  const GivenLogits given(oracle::make_row(oracle::RowFamily::normal, vocab, 1));
  constexpr std::int64_t kRows = 50;
  const std::vector<std::int64_t> ids(kRows, 3);
  Meeting meeting(2);
  std::vector<std::vector<float>> logprobs(2, std::vector<float>(kRows));
  meeting.hold([&](std::size_t p) {
    ScoreRequest request;
    request.hidden = given.hidden(kRows);
    request.token_ids = ids;
    request.logprobs = logprobs[p].data();
    ScoreOptions options;
    const auto half = static_cast<std::int64_t>(p) * vocab / 2;
    options.peers = meeting.peers(p, half, vocab);
    return score(test::part_of(given.head(), half, half + vocab / 2), request, options).has_value();
  });
  EXPECT_EQ(meeting.exchanges(), 1);
  return meeting.most_bytes() / kRows;
}

TEST(Parties, StatesDoNotGrowWithTheVocabulary) {
  EXPECT_EQ(bytes_of_a_row(100), bytes_of_a_row(5000));
  EXPECT_LE(bytes_of_a_row(5000), 128U);
}

// What each party is told, of a call that one of them makes in another way.
std::vector<std::string> errors_of(const std::vector<std::pair<std::int64_t, std::int64_t>>& ranges,
                                   const std::vector<std::int64_t>& vocabs, std::size_t lost = 99) {
  const GivenLogits given(oracle::make_row(oracle::RowFamily::normal, 100, 1));
  Meeting meeting(ranges.size());
  std::vector<std::string> errors(ranges.size());
  meeting.hold([&](std::size_t p) {
    if (p == lost) return false;
    float lse = 0;
    ScoreRequest request;
    request.hidden = given.hidden(1);
    request.lse = &lse;
    ScoreOptions options;
    options.peers = meeting.peers(p, ranges[p].first, vocabs[p]);
    const auto report = score(test::part_of(given.head(), ranges[p].first, ranges[p].second), request, options);
    if (!report) errors[p] = report.error().message;
    return true;
  });
  return errors;
}

TEST(Parties, ThatDoNotHaveEveryIdOnceAreTold) {
  EXPECT_EQ(errors_of({{0, 50}, {50, 100}}, {100, 100}), std::vector<std::string>(2));
  EXPECT_EQ(errors_of({{0, 60}, {50, 100}}, {100, 100}),
            std::vector<std::string>(2,
                                     "peers: a party has ids [50, 100), and the ones before it those up to 60; "
                                     "expected every id of the vocabulary [0, 100) once"));
  EXPECT_EQ(
      errors_of({{50, 90}, {0, 50}}, {100, 100}),
      std::vector<std::string>(2, "peers: the parties have ids [0, 90); expected all of the vocabulary [0, 100)"));
  const auto errors = errors_of({{0, 50}, {50, 90}}, {100, 90});
  EXPECT_EQ(errors[0],
            "peers: the party of ids [50, 90) has a vocabulary of 90, and this one of 100; expected the same for all");
  EXPECT_EQ(errors[1],
            "peers: the party of ids [0, 50) has a vocabulary of 100, and this one of 90; expected the same for all");
}

TEST(Parties, OneThatIsLostIsTheOthersError) {
  const auto errors = errors_of({{0, 50}, {50, 70}, {70, 100}}, {100, 100, 100}, 1);
  const std::string expected = "peers: gather failed, so the parties' states were not exchanged";
  EXPECT_EQ(errors, (std::vector<std::string>{expected, "", expected}));
}

}  // namespace
}  // namespace isologit::testing_score
