// Bad input: each error of a call, with the code and the words that help, and no output written.
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// A request that is right in every way, for tests to spoil.
class Errors : public testing::Test {
 protected:
  Errors() {
    head_.weight = {weight_.data(), DType::f32, 5, 3, 3};
    head_.bias = {bias_.data(), DType::f32, 5};
    head_.vocab_size = 4;
    request_.hidden = {hidden_.data(), DType::f32, 2, 3, 3};
    request_.token_ids = ids_;
    request_.logprobs = floats_.data();
    request_.lse = floats_.data() + 2;
    request_.entropy = floats_.data() + 4;
    request_.argmax = integers_.data();
    request_.rank = integers_.data() + 2;
  }

  // The call fails with this code and a message that holds every one of `words`; the outputs are as they were.
  void expect_error(StatusCode code, const std::vector<std::string>& words) const {
    const Result<ScoreReport> report = score(head_, request_, options_);
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, code) << report.error().message;
    for (const std::string& word : words) {
      EXPECT_NE(report.error().message.find(word), std::string::npos)
          << "'" << word << "' is not in: " << report.error().message;
    }
    for (const float x : floats_) EXPECT_EQ(x, 1234.5F);
    for (const std::int64_t x : integers_) EXPECT_EQ(x, -77);
  }
  void expect_invalid(const std::vector<std::string>& words) const {
    expect_error(StatusCode::invalid_argument, words);
  }

  std::vector<float> weight_ = std::vector<float>(15, 1.0F);
  std::vector<float> bias_ = std::vector<float>(5, 0.0F);
  std::vector<float> hidden_ = std::vector<float>(6, 1.0F);
  std::vector<std::int64_t> ids_ = {0, 3};
  std::vector<float> temperatures_;
  std::vector<float> floats_ = std::vector<float>(6, 1234.5F);
  std::vector<std::int64_t> integers_ = std::vector<std::int64_t>(4, -77);
  Head head_;
  ScoreRequest request_;
  ScoreOptions options_;
};

TEST_F(Errors, NoneWhenAllIsRight) {
  ASSERT_TRUE(score(head_, request_, options_));
  for (const float x : floats_) EXPECT_NE(x, 1234.5F);
  for (const std::int64_t x : integers_) EXPECT_NE(x, -77);
}

TEST_F(Errors, WeightShape) {
  head_.weight.rows = -1;
  expect_invalid({"weight", "[-1, 3]", "expected"});
  head_.weight.rows = 5;
  head_.weight.cols = 0;
  expect_invalid({"weight", "[5, 0]"});
}

TEST_F(Errors, NullWeight) {
  head_.weight.data = nullptr;
  expect_invalid({"weight", "null"});
}

TEST_F(Errors, WeightBeyondTheAddressSpace) {
  for (const std::int64_t stride : {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min(),
                                    std::int64_t{1} << 59, -(std::int64_t{1} << 59)}) {
    head_.weight.row_stride = stride;
    expect_invalid({"weight", "5 rows", std::to_string(stride), "overflow"});
  }
  head_.weight.row_stride = 3;
  head_.weight.cols = request_.hidden.cols = std::numeric_limits<std::int64_t>::max();
  expect_invalid({"weight", "at most"});
  head_.weight.cols = request_.hidden.cols = 3;
  head_.weight = {weight_.data(), DType::f32, std::numeric_limits<std::int64_t>::max(), 3, 0};
  expect_invalid({"weight", "at most"});
}

TEST_F(Errors, VocabSize) {
  for (const std::int64_t size : {0, -4, 6}) {
    head_.vocab_size = size;
    expect_invalid({"vocab_size", std::to_string(size), "1 to 5"});
  }
}

TEST_F(Errors, Bias) {
  head_.bias.size = 3;
  expect_invalid({"bias", "3 elements", "vocabulary of 4"});
  head_.bias = {nullptr, DType::f32, 5};
  expect_invalid({"bias", "null"});
}

TEST_F(Errors, Softcap) {
  head_.transforms.has_softcap = true;
  for (const float cap : {0.0F, -30.0F, infinity, not_a_number}) {
    head_.transforms.softcap = cap;
    expect_invalid({"softcap", "above 0"});
  }
}

TEST_F(Errors, Scale) {
  head_.transforms.scale_kind = ScaleKind::multiply;
  for (const float scale : {0.0F, -0.0F, infinity, -infinity, not_a_number}) {
    head_.transforms.scale = scale;
    expect_invalid({"scale", "finite"});
  }
  head_.transforms.scale_kind = ScaleKind::divide;
  for (const float scale : {0.0F, -1.0F, infinity, not_a_number}) {
    head_.transforms.scale = scale;
    expect_invalid({"scale divisor", "above 0"});
  }
}

TEST_F(Errors, Hidden) {
  request_.hidden.rows = -2;
  expect_invalid({"hidden", "[-2, 3]"});
  request_.hidden.rows = 2;
  request_.hidden.data = nullptr;
  expect_invalid({"hidden", "null"});
  request_.hidden.data = hidden_.data();
  request_.hidden.cols = 2;
  expect_invalid({"hidden", "2 elements", "have 3"});
}

TEST_F(Errors, Threads) {
  options_.threads = -1;
  expect_invalid({"threads", "-1"});
}

TEST_F(Errors, TokenIds) {
  for (const std::int64_t id : {std::int64_t{4}, std::int64_t{-1}, std::int64_t{-101}, std::int64_t{1} << 40}) {
    ids_[1] = id;
    expect_invalid({"token_ids[1]", std::to_string(id), "[0, 4)", "-100"});
  }
}

TEST_F(Errors, NumberOfTokenIds) {
  request_.token_ids = {};
  expect_invalid({"token_ids", "none"});
  request_.logprobs = nullptr;
  expect_invalid({"token_ids", "none"});
  const std::vector<std::int64_t> three = {0, 1, 2};
  request_.token_ids = three;
  expect_invalid({"token_ids", "3 for 2"});
}

TEST_F(Errors, IgnoreIndexIsTheCallersChoice) {
  ids_[1] = -1;
  request_.ignore_index = -1;
  ASSERT_TRUE(score(head_, request_, options_));
  EXPECT_EQ(floats_[1], 0.0F);
}

TEST_F(Errors, Temperatures) {
  temperatures_ = {1, 2, 3};
  request_.temperatures = temperatures_;
  expect_invalid({"temperatures", "3 for 2"});
  for (const float temperature : {0.0F, -0.0F, -1.0F, infinity, not_a_number}) {
    temperatures_ = {1, temperature};
    request_.temperatures = temperatures_;
    expect_invalid({"temperatures[1]", "above 0"});
  }
}

TEST_F(Errors, OutputsOverInputs) {
  std::vector<float> all(32, 1.0F);
  request_.hidden.data = all.data();
  for (float* output : {all.data(), all.data() + 5}) {
    request_.lse = output;
    expect_invalid({"lse", "overlaps", "hidden"});
  }
  request_.lse = all.data() + 6;  // just behind
  EXPECT_TRUE(score(head_, request_, options_));
}

TEST_F(Errors, OutputsOverTheWeightOrTheIds) {
  request_.entropy = weight_.data() + 14;
  expect_invalid({"entropy", "overlaps", "weight"});
  request_.entropy = bias_.data() + 4;
  expect_invalid({"entropy", "overlaps", "bias"});
  request_.entropy = nullptr;
  request_.rank = ids_.data() + 1;
  expect_invalid({"rank", "overlaps", "token_ids"});
}

TEST_F(Errors, OutputsOverRowsThatRunBackwards) {
  std::vector<float> all(32, 1.0F);
  request_.hidden = {all.data() + 20, DType::f32, 2, 3, -10};
  request_.lse = all.data() + 9;  // [9, 11) and the second row is [10, 13)
  expect_invalid({"lse", "overlaps", "hidden"});
}

TEST_F(Errors, OutputsOverOutputs) {
  request_.lse = request_.logprobs + 1;
  expect_invalid({"logprobs", "overlaps", "lse"});
}

TEST_F(Errors, UnknownKernel) {
  options_.kernel = "abacus";
  std::vector<std::string> words = {"kernel", "abacus", "known are"};
  for (const std::string& name : runnable_kernels()) words.push_back(name);
  expect_error(StatusCode::unsupported, words);
}

TEST_F(Errors, UnknownKernelInTheEnvironment) {
  ASSERT_EQ(setenv("ISOLOGIT_KERNEL", "abacus", 1), 0);
  expect_error(StatusCode::unsupported, {"ISOLOGIT_KERNEL", "abacus"});
  options_.kernel = "portable";  // a name given goes before the environment
  EXPECT_TRUE(score(head_, request_, options_));
  ASSERT_EQ(setenv("ISOLOGIT_KERNEL", "portable", 1), 0);
  options_.kernel.clear();
  const Result<ScoreReport> report = score(head_, request_, options_);
  ASSERT_EQ(unsetenv("ISOLOGIT_KERNEL"), 0);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->kernel, "portable");
}

class Progress : public KernelTest {
 protected:
  GivenLogits row_{std::vector<float>(1000, 0.5F)};
  std::vector<std::int64_t> ids_ = std::vector<std::int64_t>(is_reference() ? 70 : 300, 3);
};

TEST_P(Progress, RisesFrom0To1) {
  ScoreOptions options = this->options();
  std::vector<double> shares;
  options.progress = [&](double share) {
    shares.push_back(share);
    return true;
  };
  const Outputs outputs = score_row(row_, ids_, options);
  ASSERT_GT(shares.size(), 10U);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_GE(shares.front(), 0.0);
  EXPECT_LT(shares.front(), 0.5);
  EXPECT_DOUBLE_EQ(shares.back(), 1.0);
  // Watching changes nothing.
  EXPECT_TRUE(same_rows(outputs, score_row(row_, ids_, this->options())));
}

TEST_P(Progress, FalseCancels) {
  ScoreOptions options = this->options();
  for (const int after : {1, 7}) {
    int calls = 0;
    options.progress = [&](double) { return ++calls < after; };
    std::vector<float> lse(ids_.size());
    ScoreRequest request;
    request.hidden = row_.hidden(static_cast<std::int64_t>(ids_.size()));
    request.lse = lse.data();
    const Result<ScoreReport> report = score(row_.head(), request, options);
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, StatusCode::cancelled);
    EXPECT_NE(report.error().message.find("cancelled"), std::string::npos);
    EXPECT_EQ(calls, after);
  }
}

ISOLOGIT_FOR_EACH_KERNEL(Progress);

}  // namespace
}  // namespace isologit::testing_score
