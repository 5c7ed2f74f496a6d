// What a call takes from the thread that makes it, and leaves to it: processors, floating-point modes, and what its
// callback throws.
#include <cfenv>
#include <functional>
#include <limits>
#include <new>
#include <stdexcept>

#include "base/pinned.hpp"
#include "isologit/backward.hpp"
#include "isologit/given_logits.hpp"
#include "isologit/partial.hpp"
#include "isologit/sample.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using detail::base::own_processors;
using detail::base::run_pinned;

// Every verb, on 200 ids and three rows; what a call returns when it fails, and how many processors it reports.
struct Outcome {
  std::string error;
  StatusCode code = StatusCode::ok;
  int processors = 0;
};

struct Call {
  std::vector<float> weight = std::vector<float>(400, 0.25F);
  std::vector<float> hidden = std::vector<float>(6, 1.0F);
  std::vector<std::int64_t> ids = {0, 7, 199};
  std::vector<std::uint64_t> seeds = {1};
  std::vector<std::uint32_t> positions = {0};
  std::vector<float> floats = std::vector<float>(3);
  std::vector<float> many = std::vector<float>(600);
  std::optional<std::vector<int>> processors;
  std::function<bool(double)> progress;
  float softcap = 30;
  float temperature = 1;
  std::string kernel = "portable";

  Head head() const { return {{weight.data(), DType::f32, 200, 2, 2}, {}, 200, {true, softcap}}; }
  template <class Options>
  Options options() const {
    Options options;
    options.threads = 1;  // with more, they may leave nothing to the calling thread to tell of
    options.processors = processors;
    options.progress = progress;
    options.kernel = kernel;
    return options;
  }
  template <class Report>
  static Outcome outcome(const Result<Report>& report) {
    return report ? Outcome{"", StatusCode::ok, report->processors}
                  : Outcome{report.error().message, report.error().code, 0};
  }
  ScoreRequest score_request() {
    ScoreRequest request;
    request.hidden = {hidden.data(), DType::f32, 3, 2, 2};
    request.temperatures = {&temperature, 1};
    request.lse = floats.data();
    return request;
  }

  Outcome score() { return outcome(isologit::score(head(), score_request(), options<ScoreOptions>())); }
  Outcome partial() {
    auto begun = PartialScore::begin(200, 2, head().transforms, score_request(), options<ScoreOptions>());
    if (!begun) return {begun.error().message, begun.error().code, 0};
    if (const auto done = begun->absorb({head(), 0}); !done) return {done.error().message, done.error().code, 0};
    if (const auto done = begun->finish_round(); !done) return {done.error().message, done.error().code, 0};
    return {"", StatusCode::ok, begun->report().processors};
  }
  Outcome sample() {
    SampleRequest request;
    request.hidden = {hidden.data(), DType::f32, 3, 2, 2};
    request.temperatures = {&temperature, 1};
    request.seeds = seeds;
    request.sequence_ids = seeds;
    request.positions = positions;
    request.ids = ids.data();
    return outcome(isologit::sample(head(), request, options<ScoreOptions>()));
  }
  Outcome backward() {
    BackwardRequest request;
    request.hidden = {hidden.data(), DType::f32, 3, 2, 2};
    request.temperatures = {&temperature, 1};
    request.d_lse = hidden.data();
    request.dweight = {many.data(), DType::f32, 2};
    return outcome(isologit::backward(head(), request, options<BackwardOptions>()));
  }
  Outcome score_logits() {
    GivenLogitsRequest request;
    request.logits = {weight.data(), DType::f32, 2, 200, 200};
    request.temperatures = {&temperature, 1};
    request.lse = floats.data();
    request.log_softmax = many.data();
    request.log_softmax_row_stride = 200;
    return outcome(isologit::score_logits(request, options<ScoreOptions>()));
  }
  Outcome backward_logits() {
    GivenLogitsBackwardRequest request;
    request.logits = {weight.data(), DType::f32, 2, 200, 200};
    request.temperatures = {&temperature, 1};
    request.d_lse = hidden.data();
    request.dlogits = many.data();
    request.dlogits_row_stride = 200;
    return outcome(isologit::backward_logits(request, options<BackwardOptions>()));
  }
};

using Verb = Outcome (Call::*)();
struct Named {
  const char* name;
  Verb verb;
};
constexpr Named kVerbs[] = {
    {"score", &Call::score},       {"partial", &Call::partial},           {"sample", &Call::sample},
    {"backward", &Call::backward}, {"score_logits", &Call::score_logits}, {"backward_logits", &Call::backward_logits}};

TEST(Caller, SaysWhichProcessorsToRunOn) {
  const std::vector<int> all = own_processors();
  if (all.size() < 2) GTEST_SKIP() << "needs two processors";
  for (const auto& [name, verb] : kVerbs) {
    run_pinned(all.front(), [&, name = name, verb = verb] {
      Call call;
      EXPECT_EQ((call.*verb)().processors, 1) << name;
      std::vector<int> during;
      call.progress = [&](double) {
        during = own_processors();
        return true;
      };
      call.processors = all;
      const Outcome outcome = (call.*verb)();
      EXPECT_EQ(outcome.error, "") << name;
      EXPECT_EQ(outcome.processors, static_cast<int>(all.size())) << name;
      EXPECT_EQ(during, all) << name;
      EXPECT_EQ(own_processors(), std::vector<int>{all.front()}) << name;
      call.processors = std::vector<int>();
      EXPECT_NE((call.*verb)().error.find("processors: an empty set"), std::string::npos) << name;
    });
  }
}

TEST(Caller, CountsTheThreadsByTheProcessorsItNames) {
  const std::vector<int> all = own_processors();
  if (all.size() < 2) GTEST_SKIP() << "needs two processors";
  Call call;
  ScoreOptions options;
  options.processors = {{all.back()}};
  const auto one = score(call.head(), call.score_request(), options);
  ASSERT_TRUE(one);
  EXPECT_EQ(one->threads, 1);
  EXPECT_EQ(one->processors, 1);
}

// A callback runs as the caller's own code does, before and after which the library has its own modes.
TEST(Caller, HasItsOwnModesInTheCallback) {
  for (const auto& [name, verb] : kVerbs) {
    Call plain;
    ASSERT_EQ((plain.*verb)().error, "") << name;
    Call call;
    int calls = 0;
    int wrong = 0;
    call.progress = [&](double) {
      ++calls;
      if (std::fegetround() != (calls == 1 ? FE_UPWARD : FE_DOWNWARD)) ++wrong;
      std::fesetround(FE_DOWNWARD);  // stays, as it would after any function
      return true;
    };
    std::fesetround(FE_UPWARD);
    const Outcome outcome = (call.*verb)();
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(outcome.error, "") << name;
    EXPECT_GT(calls, 0) << name;
    EXPECT_EQ(wrong, 0) << name;
    EXPECT_EQ(after, FE_DOWNWARD) << name;
    EXPECT_EQ(call.floats, plain.floats) << name;
    EXPECT_EQ(call.many, plain.many) << name;
    EXPECT_EQ(call.ids, plain.ids) << name;
  }
}

TEST(Caller, IsToldWhatItsCallbackThrows) {
  const std::vector<std::pair<std::function<void()>, std::string>> throwers = {
      {[] { throw std::runtime_error("tired"); }, "It threw an exception: tired"},
      {[] { throw std::bad_alloc(); }, "It threw an exception: std::bad_alloc"},
      {[] { throw 42; }, "It threw something that is no std::exception"}};
  for (const auto& [name, verb] : kVerbs) {
    for (const auto& [thrower, words] : throwers) {
      Call call;
      call.progress = [&, thrower = thrower](double) {
        thrower();
        return true;
      };
      const Outcome outcome = (call.*verb)();
      EXPECT_EQ(outcome.code, StatusCode::cancelled) << name << ": " << outcome.error;
      EXPECT_NE(outcome.error.find("cancelled by the progress callback"), std::string::npos) << name;
      EXPECT_NE(outcome.error.find(words), std::string::npos) << name << ": " << outcome.error;
    }
  }
}

#if defined(__SSE2__)

// Parameters are numbers, whatever the caller's modes make of subnormal ones.
TEST(Caller, MayFlushSubnormalNumbersToZero) {
  constexpr unsigned kFlush = 0x8040;
  const unsigned plain = __builtin_ia32_stmxcsr();
  for (const auto& [name, verb] : kVerbs) {
    Call expected;
    expected.softcap = expected.temperature = std::numeric_limits<float>::denorm_min();
    ASSERT_EQ((expected.*verb)().error, "") << name;
    Call call;
    call.softcap = call.temperature = std::numeric_limits<float>::denorm_min();
    __builtin_ia32_ldmxcsr(plain | kFlush);
    const Outcome outcome = (call.*verb)();
    const unsigned after = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(plain);
    EXPECT_EQ(outcome.error, "") << name;
    EXPECT_EQ(after, plain | kFlush) << name;
    EXPECT_EQ(call.floats, expected.floats) << name;
    EXPECT_EQ(call.ids, expected.ids) << name;
  }
}

#endif

}  // namespace
}  // namespace isologit::testing_score
