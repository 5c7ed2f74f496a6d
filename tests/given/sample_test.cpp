// Draws from given logits, and what the cuts leave of them, against the oracle, bit for bit.
#include "oracle/sample.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "given/support.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_given {
namespace {

using oracle::RowFamily;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::uint64_t seed = 0x9E3779B97F4A7C15U;

// min-p, top-k, top-p.
const std::vector<oracle::Cuts> all_cuts = {{0, 0, 1},        {0.1F, 0, 1},      {1, 0, 1},         {0, 5, 1},
                                            {0, 100000, 1},   {0, 0, 0.5F},      {0, 0, 0x1p-149F}, {0, 4, 0.5F},
                                            {0.01F, 0, 0.9F}, {0.02F, 20, 0.75F}};

struct Drawn {
  std::vector<std::int64_t> ids;
  std::vector<float> logprobs, cut_logprobs, log_kept_cut;
  std::vector<std::uint8_t> cut_mask;  // [N, V]

  explicit Drawn(const Given& given)
      : ids(static_cast<std::size_t>(given.rows), 77),
        logprobs(ids.size(), 77),
        cut_logprobs(logprobs),
        log_kept_cut(logprobs),
        cut_mask(ids.size() * static_cast<std::size_t>(given.vocab), 77) {}
};

oracle::DrawKey key_of(std::int64_t row) {
  return {seed, ~static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(7 * row)};
}

Drawn draw(const Given& given, const oracle::Cuts& cuts, const ScoreOptions& options) {
  Drawn drawn(given);
  std::vector<std::uint64_t> sequence_ids;
  std::vector<std::uint32_t> positions;
  for (std::int64_t i = 0; i < given.rows; ++i) {
    sequence_ids.push_back(key_of(i).sequence);
    positions.push_back(key_of(i).position);
  }
  GivenLogitsSampleRequest request;
  request.logits = given.view();
  request.temperatures = given.temperatures;
  request.seeds = {&seed, 1};
  request.sequence_ids = sequence_ids;
  request.positions = positions;
  request.min_p = {&cuts.min_p, 1};
  request.top_k = {&cuts.top_k, 1};
  request.top_p = {&cuts.top_p, 1};
  request.ids = drawn.ids.data();
  request.logprobs = drawn.logprobs.data();
  request.cut_logprobs = drawn.cut_logprobs.data();
  request.log_kept_cut = drawn.log_kept_cut.data();
  request.cut_mask = drawn.cut_mask.data();
  const Result<SampleReport> report = sample_logits(request, options);
  EXPECT_TRUE(report) << report.error().message;
  if (report) {
    EXPECT_EQ(report->kernel, options.kernel);
    EXPECT_EQ(report->rows, given.rows);
  }
  return drawn;
}

class GivenDraws : public testing_score::KernelTest {
 protected:
  void expect_right(const Given& given, const oracle::Cuts& cuts, int threads = 1) const {
    const Drawn drawn = draw(given, cuts, options(threads));
    for (std::int64_t i = 0; i < given.rows; ++i) {
      SCOPED_TRACE(testing::Message() << "row " << i << " of " << given.rows << ", vocab " << given.vocab << " min_p "
                                      << cuts.min_p << " top_k " << cuts.top_k << " top_p " << cuts.top_p);
      const auto at = static_cast<std::size_t>(i);
      const bool greedy = !given.temperatures.empty() && given.temperatures[at % given.temperatures.size()] == 0;
      const std::vector<float> z = greedy ? raw(given, i) : given.last(i);
      const std::vector<std::uint8_t> all(z.size(), 1);
      const oracle::Sample right = greedy ? oracle::sample_greedy(z, all) : oracle::sample(z, all, cuts, key_of(i));
      EXPECT_EQ(drawn.ids[at], right.id);
      EXPECT_EQ(oracle::bits_of(drawn.logprobs[at]), oracle::bits_of(right.logprob));
      EXPECT_EQ(oracle::bits_of(drawn.cut_logprobs[at]), oracle::bits_of(right.logprob_cut));
      EXPECT_EQ(oracle::bits_of(drawn.log_kept_cut[at]), oracle::bits_of(right.log_kept_cut));
      std::vector<std::uint8_t> kept;
      if (greedy || oracle::Row(z).kind() != oracle::RowKind::ordinary) {
        for (const float x : z) kept.push_back(x == -infinity ? 0 : 1);
      } else {
        kept = oracle::cut_support(z, all, cuts);
      }
      const auto mask = drawn.cut_mask.begin() + i * given.vocab;
      EXPECT_TRUE(std::equal(kept.begin(), kept.end(), mask));
    }
  }

  static std::vector<float> raw(const Given& given, std::int64_t i) {
    return {given.values.begin() + i * given.vocab, given.values.begin() + (i + 1) * given.vocab};
  }
};

TEST_P(GivenDraws, AreTheOraclesForEveryFamily) {
  for (const std::int64_t vocab : {1, 2, 17, 130}) {
    if (is_reference() && vocab > 17) break;
    std::vector<std::vector<float>> rows;
    for (const RowFamily family : oracle::row_families) rows.push_back(oracle::make_row(family, vocab, 5));
    for (const oracle::Cuts& cuts : all_cuts) expect_right(make_given(rows), cuts, 2);
  }
}

TEST_P(GivenDraws, OfEveryTypeAndLayout) {
  const std::int64_t vocab = is_reference() ? 20 : 150;
  const std::vector<std::vector<float>> rows = {oracle::make_row(RowFamily::normal, vocab, 1),
                                                oracle::make_row(RowFamily::normal, vocab, 2)};
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (const bool backwards : {false, true}) {
      expect_right(make_given(rows, {dtype, 3, 2, backwards}), {0.01F, 0, 0.9F});
    }
  }
}

TEST_P(GivenDraws, AtTemperatures) {
  const std::int64_t vocab = is_reference() ? 20 : 150;
  std::vector<std::vector<float>> rows;
  for (std::uint64_t i = 0; i < 5; ++i) rows.push_back(oracle::make_row(RowFamily::normal, vocab, i));
  Given given = make_given(rows);
  given.temperatures = {0, 1, 0.3F, 2.5F, 1e-4F};
  for (const oracle::Cuts& cuts : all_cuts) expect_right(given, cuts);
}

TEST_P(GivenDraws, OfRowsWithHolesAndSpecialOnes) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Given given = make_given({{1, -infinity, 2, -infinity, 1.5F},
                                  {1, nan, 2, infinity, -infinity},
                                  {infinity, 1, -infinity, 2, 3},
                                  {-infinity, -infinity, -infinity, -infinity, -infinity},
                                  {-infinity, -infinity, -1, -infinity, -infinity}});
  for (const oracle::Cuts& cuts : all_cuts) expect_right(given, cuts);
}

// Cuts that end behind the 1024 greatest logits take further passes; among equal ones the id decides.
TEST_P(GivenDraws, WhereTheCutEndsFarDown) {
  if (is_reference()) GTEST_SKIP() << "the reference takes too long";
  const Given given = make_given({oracle::make_row(RowFamily::normal, 1500, 0), std::vector<float>(1500, 2.5F)});
  for (const oracle::Cuts& cuts : {oracle::Cuts{0, 0, 0.999F}, {0, 1200, 1}, {1e-4F, 0, 1}, {0.001F, 1300, 0.95F}}) {
    expect_right(given, cuts, 3);
  }
}

// A row's results do not depend on the threads, nor on the rows beside it.
TEST_P(GivenDraws, AloneAndInParts) {
  const std::int64_t vocab = is_reference() ? 20 : 700;
  std::vector<std::vector<float>> rows;
  for (const RowFamily family : oracle::row_families) rows.push_back(oracle::make_row(family, vocab, 8));
  const oracle::Cuts cuts{0.001F, 0, 0.9F};
  const Given given = make_given(rows);
  const Drawn one = draw(given, cuts, options(1));
  for (const int threads : {2, 7, 64}) {
    const Drawn many = draw(given, cuts, options(threads));
    EXPECT_EQ(many.ids, one.ids);
    EXPECT_EQ(many.cut_mask, one.cut_mask);
  }
  const Drawn first = draw(make_given({rows[0]}), cuts, options(3));
  EXPECT_EQ(first.ids[0], one.ids[0]);
  EXPECT_EQ(oracle::bits_of(first.logprobs[0]), oracle::bits_of(one.logprobs[0]));
}

ISOLOGIT_FOR_EACH_KERNEL(GivenDraws);

template <class Change>
void expect_refused(const std::string& message, Change change) {
  const std::vector<float> logits = {1, 2, 3, 4, 5, 6};
  const std::uint32_t position = 0;
  std::vector<std::int64_t> ids(2);
  GivenLogitsSampleRequest request;
  request.logits = {logits.data(), DType::f32, 2, 3, 3};
  request.seeds = request.sequence_ids = {&seed, 1};
  request.positions = {&position, 1};
  request.ids = ids.data();
  ASSERT_TRUE(sample_logits(request));
  ScoreOptions options;
  change(request, options);
  const auto report = sample_logits(request, options);
  ASSERT_FALSE(report) << message;
  EXPECT_NE(report.error().message.find(message), std::string::npos) << report.error().message;
}

constexpr std::array<float, 3> numbers = {1, -1, 2};

TEST(GivenDrawsInput, IsChecked) {
  using Request = GivenLogitsSampleRequest;
  expect_refused("logits: shape [2, 0]", [](Request& r, auto&) { r.logits.cols = 0; });
  expect_refused("seeds: 0 for 2 rows; expected one or one per row", [](Request& r, auto&) { r.seeds = {}; });
  expect_refused("top_p: 3 for 2 rows", [](Request& r, auto&) { r.top_p = numbers; });
  expect_refused("min_p[1]: -1; expected 0 (no cut) to 1",
                 [](Request& r, auto&) { r.min_p = std::span(numbers).first(2); });
  expect_refused("temperatures[1]: -1", [](Request& r, auto&) { r.temperatures = std::span(numbers).first(2); });
  expect_refused("threads: -1", [](Request&, ScoreOptions& o) { o.threads = -1; });
  expect_refused("kernel: 'none' is unknown", [](Request&, ScoreOptions& o) { o.kernel = "none"; });
  expect_refused("cancelled", [](Request&, ScoreOptions& o) {
    o.threads = 1;  // the calling thread, which asks, does the work
    o.progress = [](double) { return false; };
  });
  expect_refused("ids: the output buffer overlaps that of cut_mask",
                 [](Request& r, auto&) { r.cut_mask = reinterpret_cast<std::uint8_t*>(r.ids); });
}

}  // namespace
}  // namespace isologit::testing_given
