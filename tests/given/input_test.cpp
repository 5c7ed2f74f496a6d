// What is refused, and in which words; empty and ignored rows; cancelling.
#include <limits>

#include "given/support.hpp"
#include "oracle/values.hpp"

namespace isologit::testing_given {
namespace {

// Two rows of three logits, all outputs but log_softmax asked for.
struct Call {
  std::vector<float> logits = {1, 2, 3, 4, 5, 6};
  std::vector<std::int64_t> ids = {0, 2};
  std::vector<float> temperatures;
  std::vector<float> logprobs = std::vector<float>(2), lse = std::vector<float>(2), all = std::vector<float>(6);
  GivenLogitsRequest request;
  ScoreOptions options;

  Call() {
    request.logits = {logits.data(), DType::f32, 2, 3, 3};
    request.token_ids = ids;
    request.logprobs = logprobs.data();
    request.lse = lse.data();
    request.log_softmax = all.data();
    request.log_softmax_row_stride = 3;
  }
};

template <class Change>
void expect_refused(const std::string& message, Change change, StatusCode code = StatusCode::invalid_argument) {
  Call call;
  change(call);
  const auto report = score_logits(call.request, call.options);
  ASSERT_FALSE(report.has_value()) << message;
  EXPECT_EQ(report.error().code, code);
  EXPECT_NE(report.error().message.find(message), std::string::npos) << report.error().message;
}

TEST(GivenInput, IsChecked) {
  expect_refused("logits: shape [2, 0]", [](Call& c) { c.request.logits.cols = 0; });
  expect_refused("logits: data is null", [](Call& c) { c.request.logits.data = nullptr; });
  expect_refused("logits: unknown dtype 9", [](Call& c) { c.request.logits.dtype = static_cast<DType>(9); });
  expect_refused("temperatures: 3 for 2 rows of logits; expected none, one or one per row", [](Call& c) {
    c.temperatures = {1, 1, 1};
    c.request.temperatures = c.temperatures;
  });
  expect_refused("temperatures[1]: 0; expected a finite number above 0", [](Call& c) {
    c.temperatures = {1, 0};
    c.request.temperatures = c.temperatures;
  });
  expect_refused("token_ids[1]: 3 is outside the vocabulary [0, 3) and is not the ignore_index -100",
                 [](Call& c) { c.ids[1] = 3; });
  expect_refused("token_ids[0, 1]: -1 is outside the vocabulary", [](Call& c) {
    c.ids = {0, -1, 1, 2};
    c.request.token_ids = c.ids;
    c.request.ids_per_row = 2;
  });
  expect_refused("token_ids: 2 for 2 rows of 2 ids each", [](Call& c) { c.request.ids_per_row = 2; });
  expect_refused("ids_per_row: 0; expected at least 1", [](Call& c) { c.request.ids_per_row = 0; });
  expect_refused("token_ids: none given, but logprobs are asked for; give the ids",
                 [](Call& c) { c.request.token_ids = {}; });
  expect_refused("log_softmax: a row stride of 2 elements for 2 rows of 3",
                 [](Call& c) { c.request.log_softmax_row_stride = 2; });
  expect_refused("log_softmax: the output buffer overlaps the input logits",
                 [](Call& c) { c.request.log_softmax = c.logits.data(); });
  expect_refused("logprobs: the output buffer overlaps that of lse",
                 [](Call& c) { c.request.lse = c.logprobs.data(); });
  expect_refused("threads: -1", [](Call& c) { c.options.threads = -1; });
  expect_refused(
      "kernel: 'none' is unknown", [](Call& c) { c.options.kernel = "none"; }, StatusCode::unsupported);
}

// A sum or difference of these numbers may not be taken as it comes.
TEST(GivenInput, PlacesOutsideTheVocabulary) {
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const std::pair<std::int64_t, std::int64_t> places[] = {{0, 2},         {-1, 9},     {7, 9},      {kMost, 9},
                                                          {kMost, kMost}, {0, kLeast}, {kLeast, 9}, {kLeast, kMost}};
  for (const auto& [first_id, vocab_size] : places) {
    const std::string message = "peers: 3 ids from " + std::to_string(first_id) +
                                " on; expected ids of the vocabulary [0, " + std::to_string(vocab_size) + ")";
    expect_refused(message, [&](Call& c) {
      c.request.log_softmax = nullptr;
      c.options.peers = {first_id, vocab_size, [](const auto&, auto&) { return false; }};
    });
  }
}

TEST(GivenInput, ProgressMayCancel) {
  for (const bool dense : {false, true}) {
    for (const int threads : {1, 4}) {
      expect_refused(
          "cancelled by the progress callback",
          [&](Call& c) {
            c.options.threads = threads;
            c.options.progress = [](double) { return false; };
            if (dense) c.request.logprobs = c.request.lse = nullptr;
          },
          StatusCode::cancelled);
    }
  }
}

TEST(GivenInput, IgnoredRowsAreZero) {
  Call call;
  call.ids = {-100, 1};
  std::vector<float> entropy(2, 7);
  call.request.entropy = entropy.data();
  call.logits[0] = std::numeric_limits<float>::quiet_NaN();  // not looked at
  ASSERT_TRUE(score_logits(call.request).has_value());
  for (const float x : {call.logprobs[0], call.lse[0], entropy[0], call.all[0], call.all[1], call.all[2]}) {
    EXPECT_EQ(oracle::bits_of(x), 0U);
  }
  EXPECT_NE(call.all[4], 0);
}

TEST(GivenInput, AnIgnoreIndexMayBeAnId) {
  Call call;
  call.request.ignore_index = 2;
  ASSERT_TRUE(score_logits(call.request).has_value());
  EXPECT_EQ(oracle::bits_of(call.logprobs[1]), 0U);
  EXPECT_EQ(oracle::bits_of(call.all[3]), 0U);
  EXPECT_NE(call.all[2], 0);  // the logprob of id 2 in a row that is not ignored
}

TEST(GivenInput, MayHaveNoRows) {
  GivenLogitsRequest request;
  request.logits = {nullptr, DType::f32, 0, 3, 3};
  float out = 7;
  request.log_softmax = &out;
  const auto report = score_logits(request);
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->rows, 0);
  EXPECT_EQ(out, 7);
}

}  // namespace
}  // namespace isologit::testing_given
