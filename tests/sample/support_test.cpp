// Draws over a support: what a mask leaves out is as if it were not there, in every pass.
#include <cmath>
#include <limits>

#include "oracle/cases.hpp"
#include "sample/expect_oracle.hpp"

namespace isologit::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

std::vector<std::int64_t> random_ids(oracle::Random& random, std::size_t vocab, std::uint64_t one_in) {
  std::vector<std::int64_t> ids;
  for (std::size_t id = 0; id < vocab; ++id) {
    if (random.below(one_in) == 0) ids.push_back(static_cast<std::int64_t>(id));
  }
  return ids;
}

// A support for each of some rows: a range, kept ids and banned ids, which of them being told by `kind`, 1 to 7.
struct Supports {
  Supports(std::size_t vocab, std::size_t rows, unsigned kind, std::uint64_t seed) {
    oracle::Random random(seed * 8 + kind);
    for (std::size_t i = 0; i < rows; ++i) {
      kept.add(random_ids(random, vocab, 1 + random.below(3)));
      banned.add(random_ids(random, vocab, 2 + random.below(4)));
    }
    const auto size = static_cast<std::int64_t>(vocab);
    if ((kind & 1U) != 0) {
      support.first_id = random.between(0, size / 3);
      support.last_id = random.between(size / 2, size);
    }
    if ((kind & 2U) != 0) support.kept = kept.view();
    if ((kind & 4U) != 0) support.banned = banned.view();
  }
  Supports(const Supports&) = delete;
  Supports& operator=(const Supports&) = delete;

  Lists kept;
  Lists banned;
  Support support;
};

class SupportFamilies : public testing::TestWithParam<oracle::RowFamily> {};

TEST_P(SupportFamilies, EqualTheOracle) {
  const std::vector<oracle::Cuts> cuts = {
      {0, 0, 1},    {0.1F, 0, 1},         {1, 0, 1},    {0, 1, 1},    {0, 5, 1},
      {0, 0, 0.5F}, {0, 0, 1 - 0x1p-24F}, {0, 4, 0.5F}, {0, 1000, 1}, {0.01F, 0, 0.9F}};
  for (const std::int64_t vocab : {1, 2, 33, 150}) {
    const std::vector<float> logits = oracle::make_row(GetParam(), vocab, static_cast<std::uint64_t>(vocab % 5));
    for (unsigned kind = 1; kind < 8; ++kind) {
      const Supports supports(logits.size(), 2, kind, static_cast<std::uint64_t>(vocab));
      for (const oracle::Cuts& one : cuts) {
        expect_oracle(logits, {one, 1, {kind, 2, 3}, 2, {}, true, supports.support});
      }
      expect_oracle(logits, {{}, 0, {kind, 2, 3}, 2, {}, true, supports.support});
      expect_oracle(logits, {{0.02F, 20, 0.75F}, 0.3F, {kind, 2, 3}, 2, {}, true, supports.support});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SupportFamilies, testing::ValuesIn(oracle::row_families),
                         [](const auto& one) { return std::string(oracle::name_of(one.param)); });

// Cuts that end beyond the list, so that the mask has to hold in searches and splits too.
TEST(SampleSupport, InFurtherPasses) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 2600, 0);
  Lists fifths;
  for (std::int64_t row = 0; row < 2; ++row) {
    std::vector<std::int64_t> ids;
    for (std::int64_t id = row; id < 2600; id += 5) ids.push_back(id);
    fifths.add(ids);
  }
  const Support most{13, 2590, {}, fifths.view()};
  for (const oracle::Cuts& cuts : {oracle::Cuts{0, 0, 0.9999F}, {0, 1100, 1}, {0, 1200, 0.9999F}}) {
    EXPECT_EQ(expect_oracle(logits, {cuts, 1, {5, 6, 7}, 2, {}, true, most}).further_rows, 2)
        << cuts.top_k << ' ' << cuts.top_p;
  }
  // Over a support of a few hundred ids the same cuts end within the list.
  Lists hundreds;
  for (std::int64_t row = 0; row < 2; ++row) {
    std::vector<std::int64_t> ids;
    for (std::int64_t id = row; id < 2600; id += 7) ids.push_back(id);
    hundreds.add(ids);
  }
  Support support;
  support.kept = hundreds.view();
  EXPECT_EQ(expect_oracle(logits, {{0, 1200, 0.9999F}, 1, {5, 6, 7}, 2, {}, true, support}).further_rows, 0);
}

TEST(SampleSupport, KernelsAndThreads) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 400, 1);
  const Supports supports(logits.size(), 6, 7, 4);
  for (const std::string& kernel : runnable_kernels()) {
    for (const int threads : {1, 2, 5}) {
      ScoreOptions options;
      options.kernel = kernel;
      options.threads = threads;
      expect_oracle(logits, {{0, 30, 0.9F}, 0.7F, {1, 2, 3}, 6, options, true, supports.support});
      expect_oracle(logits, {{}, 0.7F, {1, 2, 3}, 6, options, true, supports.support});
    }
  }
}

TEST(SampleSupport, OfOneTokenIsCertain) {
  for (const std::vector<float>& logits : {std::vector<float>{3, -40, 3, 1}, {1e6F, 0, -1e6F, 5}, {0, 0, 0, 0}}) {
    Lists each;
    for (std::int64_t id = 0; id < 4; ++id) each.add({id});
    Support support;
    support.kept = each.view();
    for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0.5F, 2, 0.5F}}) {
      const Result<Draws> draws = draw(logits, {cuts, 1, {1, 2, 3}, 4, {}, true, support});
      ASSERT_TRUE(draws);
      EXPECT_EQ(draws->ids, (std::vector<std::int64_t>{0, 1, 2, 3}));
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(bits(draws->logprobs[i]), 0U);
        EXPECT_EQ(bits(draws->cut_logprobs[i]), 0U);
        EXPECT_EQ(bits(draws->log_kept_cut[i]), 0U);
      }
    }
  }
}

// The specials of a row count only where they are in the support; an empty one is a row with nothing above -inf.
TEST(SampleSupport, SpecialRowsBesideHealthyOnes) {
  const std::vector<float> logits = {1, std::nanf(""), 2, infinity, -infinity, 0.5F, std::nanf("")};
  Lists kept;
  kept.add({0, 2, 5});     // healthy
  kept.add({0, 3, 4, 6});  // NaN: before +inf
  kept.add({2, 3, 4});     // +inf
  kept.add({4});           // only -inf
  kept.add({});            // empty
  kept.add({1, 2, 6});     // NaN, the first
  kept.add({0, 4});        // healthy
  Support support;
  support.kept = kept.view();
  for (const float temperature : {0.0F, 1.0F, 0.5F}) {
    for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0.1F, 2, 0.9F}}) {
      expect_oracle(logits, {cuts, temperature, {1, 2, 3}, 7, {}, true, support});
      const Result<Draws> draws = draw(logits, {cuts, temperature, {1, 2, 3}, 7, {}, true, support});
      ASSERT_TRUE(draws);
      EXPECT_EQ(draws->ids[1], 6);
      EXPECT_EQ(draws->ids[2], 3);
      EXPECT_EQ(draws->ids[3], -1);
      EXPECT_EQ(draws->ids[4], -1);
      EXPECT_EQ(draws->ids[5], 1);
      EXPECT_EQ(draws->ids[6], 0);
      for (const std::size_t row : {1U, 2U, 3U, 4U, 5U}) EXPECT_EQ(bits(draws->logprobs[row]), 0x7FC00000U);
    }
  }
}

// Every combination of outputs has the same bits.
TEST(SampleSupport, OutputsAreTheSameAskedForAlone) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 1800, 0);
  const Supports supports(logits.size(), 3, 4, 1);
  for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0, 0, 0.9F}, {0.01F, 40, 0.7F}, {0, 1100, 1}, {0, 0, 0.9999F}}) {
    const Result<Draws> all = draw(logits, {cuts, 1, {1, 2, 3}, 3, {}, true, supports.support});
    ASSERT_TRUE(all);
    for (unsigned which = 0; which < 16; ++which) {
      Plan plan{cuts, 1, {1, 2, 3}, 3, {}, true, supports.support};
      plan.outputs = which;
      const Result<Draws> some = draw(logits, plan);
      ASSERT_TRUE(some);
      const auto same = [&](unsigned output, const auto& found, const auto& whole) {
        using Values = std::decay_t<decltype(found)>;
        return found == ((which >> output & 1U) != 0 ? whole : Values(3));
      };
      EXPECT_TRUE(same(0, some->ids, all->ids)) << which;
      EXPECT_TRUE(same(1, some->logprobs, all->logprobs)) << which;
      EXPECT_TRUE(same(2, some->cut_logprobs, all->cut_logprobs)) << which;
      EXPECT_TRUE(same(3, some->log_kept_cut, all->log_kept_cut)) << which;
    }
  }
}

// The request of the batch tests: rows with operands, temperatures and supports of their own.
class SampleRows : public testing::Test {
 protected:
  static constexpr std::int64_t kRows = 40;
  static constexpr std::int64_t kVocab = 300;

  SampleRows() {
    head_.weight = data_.weight_view();
    head_.bias = data_.bias_view();
    head_.vocab_size = kVocab;
    for (std::int64_t i = 0; i < kRows; ++i) {
      temperatures_.push_back(i % 5 == 0 ? 0.0F : static_cast<float>(i + 1) / 16);
      positions_.push_back(static_cast<std::uint32_t>(i));
      top_p_.push_back(i % 2 == 0 ? 1.0F : 0.9F);
    }
    request_.hidden = data_.hidden_view();
    request_.temperatures = temperatures_;
    request_.seeds = {&key_, 1};
    request_.sequence_ids = {&key_, 1};
    request_.positions = positions_;
    request_.top_p = top_p_;
    request_.support = supports_.support;
  }

  struct Results {
    std::vector<std::int64_t> ids = std::vector<std::int64_t>(kRows, 77);
    std::vector<float> logprobs = std::vector<float>(kRows, 77), cut_logprobs = logprobs, log_kept_cut = logprobs;
    SampleReport report;
  };
  Results run() {
    Results results;
    request_.ids = results.ids.data();
    request_.logprobs = results.logprobs.data();
    request_.cut_logprobs = results.cut_logprobs.data();
    request_.log_kept_cut = results.log_kept_cut.data();
    const Result<SampleReport> report = sample(head_, request_);
    EXPECT_TRUE(report) << report.error().message;
    if (report) results.report = *report;
    return results;
  }

  const oracle::DotData data_ =
      oracle::make_dot({kRows, kVocab, 24, DType::bf16, DType::bf16, DType::bf16}, oracle::DotFamily::normal, 3);
  const Supports supports_{kVocab, kRows, 7, 2};
  const std::uint64_t key_ = 5;
  Head head_;
  std::vector<float> temperatures_, top_p_;
  std::vector<std::uint32_t> positions_;
  SampleRequest request_;
};

TEST_F(SampleRows, LogprobsAreScoresOverTheSameSupport) {
  const Results results = run();
  std::vector<float> at_one = temperatures_;
  for (float& t : at_one) t = t == 0 ? 1 : t;
  std::vector<float> logprobs(kRows);
  std::vector<std::int64_t> argmax(kRows);
  ScoreRequest request;
  request.hidden = request_.hidden;
  request.token_ids = results.ids;
  request.temperatures = at_one;
  request.support = request_.support;
  request.logprobs = logprobs.data();
  request.argmax = argmax.data();
  ASSERT_TRUE(score(head_, request));
  for (std::size_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(bits(results.logprobs[i]), bits(logprobs[i])) << i;
    if (i % 5 == 0) {
      EXPECT_EQ(results.ids[i], argmax[i]) << i;
    }
  }
}

TEST_F(SampleRows, LeftOutAreZeroAndTheOthersAsBefore) {
  const Results all = run();
  EXPECT_EQ(all.report.rows, kRows);
  std::vector<std::uint8_t> mask(kRows, 0);
  std::vector<std::int64_t> list;
  for (std::int64_t i = 1; i < kRows; i += 3) {
    mask[static_cast<std::size_t>(i)] = 7;
    list.push_back(i);
  }
  request_.row_mask = mask;
  const Results by_mask = run();
  request_.row_mask = {};
  request_.row_list = list;
  request_.use_row_list = true;
  const Results by_list = run();
  for (const Results* some : {&by_mask, &by_list}) {
    EXPECT_EQ(some->report.rows, static_cast<std::int64_t>(list.size()));
    for (std::size_t i = 0; i < kRows; ++i) {
      const bool drawn = mask[i] != 0;
      EXPECT_EQ(some->ids[i], drawn ? all.ids[i] : 0);
      EXPECT_EQ(bits(some->logprobs[i]), drawn ? bits(all.logprobs[i]) : 0);
      EXPECT_EQ(bits(some->cut_logprobs[i]), drawn ? bits(all.cut_logprobs[i]) : 0);
      EXPECT_EQ(bits(some->log_kept_cut[i]), drawn ? bits(all.log_kept_cut[i]) : 0);
    }
  }
  request_.row_list = {};
  const Results none = run();
  EXPECT_EQ(none.report.rows, 0);
  EXPECT_EQ(none.ids, std::vector<std::int64_t>(kRows, 0));
  EXPECT_EQ(none.logprobs, std::vector<float>(kRows, 0.0F));
}

}  // namespace
}  // namespace isologit::test
