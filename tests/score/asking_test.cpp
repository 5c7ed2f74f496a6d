// In phases that have no share of the work to tell, too, the callback is asked whether to go on before a fifth of a
// second has gone by: of processor time, since the machine may be busy with other things.
#include <cstdio>
#include <ctime>
#include <functional>

#include "isologit/backward.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The longest time without a question, and all of it.
struct Times {
  double longest = 0;
  double total = 0;
};

template <class Options, class Call>
Times times_of(Call call) {
  Options options;
  options.threads = 1;
  const double begin = processor_seconds();
  double last = begin;
  Times times;
  const auto ask = [&](double) {
    const double now = processor_seconds();
    times.longest = std::max(times.longest, now - last);
    last = now;
    return true;
  };
  options.progress = ask;
  const auto report = call(options);
  EXPECT_TRUE(report) << report.error().message;
  ask(1);
  times.total = last - begin;
  return times;
}

class Asks : public testing::Test {
 protected:
  void SetUp() override {
    if (instrumented) GTEST_SKIP() << "sanitizers are slower by an order of magnitude";
  }

  void make(std::int64_t rows, std::int64_t vocab, std::int64_t cols) {
    std::uint32_t state = 1;
    const auto fill = [&](std::vector<float>& values, std::int64_t count) {
      values.resize(static_cast<std::size_t>(count));
      for (float& x : values) {
        state = state * 1664525U + 1013904223U;
        x = static_cast<float>(state >> 8U) * 0x1p-23F - 1;
      }
    };
    fill(hidden_, rows * cols);
    fill(weight_, vocab * cols);
    head_.weight = {weight_.data(), DType::f32, vocab, cols, cols};
    head_.vocab_size = vocab;
    states_ = {hidden_.data(), DType::f32, rows, cols, cols};
    ids_.assign(static_cast<std::size_t>(rows), 1);
    floats_.assign(static_cast<std::size_t>(rows), 1);
  }
  static void expect_asked(const Times& times) {
    EXPECT_LT(times.longest, 0.2) << "of " << times.total << " s";
    if (times.total < 0.25) std::puts("not run: on this machine the work is done before it would have to ask");
  }

  std::vector<float> hidden_, weight_, floats_;
  std::vector<std::int64_t> ids_;
  Head head_;
  MatrixView states_;
};

TEST_F(Asks, WhileTargetsOfRanksAreMade) {
  make(60000, 20, 1000);
  std::vector<std::int64_t> rank(ids_.size());
  ScoreRequest request;
  request.hidden = states_;
  request.token_ids = ids_;
  request.rank = rank.data();
  expect_asked(times_of<ScoreOptions>([&](const ScoreOptions& options) { return score(head_, request, options); }));
}

TEST_F(Asks, WhileManyLogprobsARowAreFinished) {
  make(400, 2000, 2);
  std::vector<float> logprobs(ids_.size() * 1024);
  ScoreRequest request;
  request.hidden = states_;
  request.top_k = 1024;
  request.top_k_logprobs = logprobs.data();
  expect_asked(times_of<ScoreOptions>([&](const ScoreOptions& options) { return score(head_, request, options); }));
}

TEST_F(Asks, WhileADenseUpstreamIsMultiplied) {
  make(64, 2000, 1000);
  std::vector<float> d_logits(ids_.size() * 2000, 0.5F), dhidden(hidden_.size()), dweight(weight_.size());
  BackwardRequest request;
  request.hidden = states_;
  request.d_logits = {d_logits.data(), DType::f32, states_.rows, 2000, 2000};
  request.dhidden = {dhidden.data(), DType::f32, states_.cols};
  request.dweight = {dweight.data(), DType::f32, states_.cols};
  expect_asked(times_of<BackwardOptions>([&](BackwardOptions options) {
    options.arithmetic = Arithmetic::exact;
    return backward(head_, request, options);
  }));
}

}  // namespace
}  // namespace isologit::testing_score
