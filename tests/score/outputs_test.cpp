// Everything a score can be asked for, against the oracle: supports, given ids, top-k, sum_p2, log_kept, raw logprobs;
// asked for together and alone; rows left out; and requests that are refused.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::bits_of;

constexpr float infinity = std::numeric_limits<float>::infinity();

// Lists of ids per row and what they own.
struct Lists {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int64_t> ids;

  void add(const std::vector<std::int64_t>& row) {
    ids.insert(ids.end(), row.begin(), row.end());
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
  IdLists view() const { return {offsets, ids}; }
};

std::vector<std::int64_t> random_ids(oracle::Random& random, std::int64_t vocab, std::uint64_t one_in) {
  std::vector<std::int64_t> ids;
  for (std::int64_t id = 0; id < vocab; ++id) {
    if (random.below(one_in) == 0) ids.push_back(id);
  }
  return ids;
}

struct Everything {
  std::vector<float> logprobs, raw_logprobs, lse, entropy, sum_p2, log_kept, ids_logprobs, top_k_logprobs;
  std::vector<std::int64_t> argmax, rank, top_k_ids;

  Everything(std::size_t rows, std::size_t per_row, std::size_t k)
      : ids_logprobs(rows * per_row, 7),
        top_k_logprobs(rows * k, 7),
        argmax(rows, 7),
        rank(rows, 7),
        top_k_ids(rows * k, 7) {
    for (auto* floats : {&logprobs, &raw_logprobs, &lse, &entropy, &sum_p2, &log_kept}) floats->assign(rows, 7);
  }
  void ask(ScoreRequest& request) {
    request.logprobs = logprobs.data();
    request.raw_logprobs = raw_logprobs.data();
    request.lse = lse.data();
    request.entropy = entropy.data();
    request.sum_p2 = sum_p2.data();
    request.log_kept = log_kept.data();
    request.ids_logprobs = ids_logprobs.data();
    request.top_k_logprobs = top_k_logprobs.data();
    request.argmax = argmax.data();
    request.rank = rank.data();
    request.top_k_ids = top_k_ids.data();
  }
  std::vector<std::uint32_t> bits() const {
    std::vector<std::uint32_t> all;
    for (const auto* floats :
         {&logprobs, &raw_logprobs, &lse, &entropy, &sum_p2, &log_kept, &ids_logprobs, &top_k_logprobs}) {
      for (const float x : *floats) all.push_back(bits_of(x));
    }
    for (const auto* ids : {&argmax, &rank, &top_k_ids}) {
      for (const std::int64_t id : *ids) all.push_back(static_cast<std::uint32_t>(id));
    }
    return all;
  }
};

// A request of some rows that all have the logits z, with everything that varies from row to row.
struct Case {
  GivenLogits given;
  std::int64_t rows = 4;
  std::int64_t per_row = 3;
  std::int64_t k = 5;
  std::vector<std::int64_t> token_ids, ids;
  std::vector<float> temperatures;
  std::int64_t first_id = 0, last_id = 0;
  bool has_kept = false, has_banned = false;
  Lists kept, banned;

  Case(std::vector<float> z, std::uint64_t seed) : given(std::move(z)) {
    oracle::Random random(seed + 77);
    const auto vocab = static_cast<std::int64_t>(given.z().size());
    last_id = vocab;
    if (seed % 3 == 1) first_id = random.between(0, vocab - 1), last_id = random.between(first_id, vocab);
    has_kept = seed % 4 == 2;
    has_banned = seed % 2 == 1;
    for (std::int64_t i = 0; i < rows; ++i) {
      token_ids.push_back(random.between(0, vocab - 1));
      for (std::int64_t j = 0; j < per_row; ++j)
        ids.push_back(random.below(9) == 0 ? -100 : random.between(0, vocab - 1));
      temperatures.push_back(i == 0 ? 1.0F : static_cast<float>(random.uniform() * 2 + 0.01));
      kept.add(random_ids(random, vocab, 1 + random.below(4)));
      banned.add(random_ids(random, vocab, 1 + random.below(5)));
    }
  }

  ScoreRequest request() const {
    ScoreRequest request;
    request.hidden = given.hidden(rows);
    request.token_ids = token_ids;
    request.temperatures = temperatures;
    request.ids_per_row = per_row;
    request.ids = ids;
    request.top_k = k;
    request.support.first_id = first_id;
    request.support.last_id = last_id;
    if (has_kept) request.support.kept = kept.view();
    if (has_banned) request.support.banned = banned.view();
    return request;
  }

  std::vector<std::uint8_t> mask(std::int64_t row) const {
    std::vector<std::uint8_t> mask(given.z().size(), has_kept ? 0 : 1);
    const auto mark = [&](const Lists& lists, std::uint8_t value) {
      const auto i = static_cast<std::size_t>(row);
      for (auto at = lists.offsets[i]; at < lists.offsets[i + 1]; ++at) {
        mask[static_cast<std::size_t>(lists.ids[static_cast<std::size_t>(at)])] = value;
      }
    };
    if (has_kept) mark(kept, 1);
    if (has_banned) mark(banned, 0);
    for (std::size_t id = 0; id < mask.size(); ++id) {
      if (static_cast<std::int64_t>(id) < first_id || static_cast<std::int64_t>(id) >= last_id) mask[id] = 0;
    }
    return mask;
  }
};

void expect_row_is_right(const Case& tested, const Everything& got, std::size_t i) {
  std::vector<float> z = tested.given.z();
  for (float& logit : z) logit = oracle::temperature(logit, tested.temperatures[i]);
  const auto mask = tested.mask(static_cast<std::int64_t>(i));
  const oracle::Row row(z, mask);
  const oracle::Row raw(tested.given.z());
  const std::int64_t id = tested.token_ids[i];
  EXPECT_EQ(bits_of(got.lse[i]), bits_of(row.lse()));
  EXPECT_EQ(bits_of(got.logprobs[i]), bits_of(row.logprob(id)));
  EXPECT_EQ(bits_of(got.raw_logprobs[i]), bits_of(raw.logprob(id)));
  EXPECT_EQ(bits_of(got.entropy[i]), bits_of(row.entropy()));
  EXPECT_EQ(bits_of(got.sum_p2[i]), bits_of(row.sum_p2()));
  EXPECT_EQ(bits_of(got.log_kept[i]), bits_of(row.log_kept())) << got.log_kept[i] << " for " << row.log_kept();
  EXPECT_EQ(got.argmax[i], row.argmax());
  EXPECT_EQ(got.rank[i], row.rank(id));
  for (std::size_t j = 0; j < static_cast<std::size_t>(tested.per_row); ++j) {
    const std::size_t at = i * static_cast<std::size_t>(tested.per_row) + j;
    const float expected = tested.ids[at] == -100 ? 0.0F : row.logprob(tested.ids[at]);
    EXPECT_EQ(bits_of(got.ids_logprobs[at]), bits_of(expected));
  }
  const auto order = row.top_k(tested.k);
  for (std::size_t j = 0; j < static_cast<std::size_t>(tested.k); ++j) {
    const std::size_t at = i * static_cast<std::size_t>(tested.k) + j;
    EXPECT_EQ(got.top_k_ids[at], order[j]);
    const bool ordinary = row.kind() == oracle::RowKind::ordinary;
    const float expected = !ordinary ? oracle::quiet_nan() : order[j] == -1 ? -infinity : row.logprob(order[j]);
    EXPECT_EQ(bits_of(got.top_k_logprobs[at]), bits_of(expected));
  }
}

class AllOutputs : public KernelTest {
 protected:
  Everything score_everything(const Case& tested, int threads = 1) {
    Everything got(static_cast<std::size_t>(tested.rows), static_cast<std::size_t>(tested.per_row),
                   static_cast<std::size_t>(tested.k));
    ScoreRequest request = tested.request();
    got.ask(request);
    const auto report = score(tested.given.head(), request, options(threads));
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return got;
  }
};

TEST_P(AllOutputs, AreTheOraclesForEveryFamilyAndSupport) {
  for (const oracle::RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : {1, 2, 17, 70, 200}) {
      if (is_reference() && vocab > 17) continue;
      for (std::uint64_t seed = 0; seed < (is_reference() || instrumented ? 6 : 24); ++seed) {
        const Case tested(oracle::make_row(family, vocab, seed), seed);
        const Everything got = score_everything(tested);
        for (std::size_t i = 0; i < static_cast<std::size_t>(tested.rows); ++i) expect_row_is_right(tested, got, i);
        ASSERT_FALSE(HasFailure()) << oracle::name_of(family) << " vocab " << vocab << " seed " << seed;
      }
    }
  }
}

// One token is all that is kept, and a kept share that no f32 can tell from 0 or 1.
TEST_P(AllOutputs, SmallSupports) {
  for (const std::vector<float>& z :
       {std::vector<float>{3, -40, 3, 1}, {1e6F, 0, -1e6F, 5}, {0, 0, 0, 0}, {90, -90, 1, 2}}) {
    for (std::int64_t only = 0; only < 4; ++only) {
      Case tested(z, 0);
      tested.has_kept = true;
      tested.kept = {};
      for (std::int64_t i = 0; i < tested.rows; ++i) tested.kept.add({only});
      const Everything got = score_everything(tested);
      for (std::size_t i = 0; i < 4; ++i) {
        expect_row_is_right(tested, got, i);
        EXPECT_EQ(got.entropy[i], 0);
        EXPECT_EQ(got.sum_p2[i], 1);
      }
    }
  }
}

TEST_P(AllOutputs, AreTheSameAskedForAlone) {
  const Case tested(oracle::make_row(oracle::RowFamily::normal, is_reference() ? 20 : 150, 3), 3);
  const Everything together = score_everything(tested);
  using Ask = std::function<void(ScoreRequest&, Everything&)>;
  const std::vector<Ask> asks = {[](ScoreRequest& r, Everything& e) { r.logprobs = e.logprobs.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.raw_logprobs = e.raw_logprobs.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.lse = e.lse.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.entropy = e.entropy.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.sum_p2 = e.sum_p2.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.log_kept = e.log_kept.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.ids_logprobs = e.ids_logprobs.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.top_k_logprobs = e.top_k_logprobs.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.argmax = e.argmax.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.rank = e.rank.data(); },
                                 [](ScoreRequest& r, Everything& e) { r.top_k_ids = e.top_k_ids.data(); }};
  Everything alone(4, 3, 5);
  for (const Ask& ask : asks) {
    ScoreRequest request = tested.request();
    ask(request, alone);
    ASSERT_TRUE(score(tested.given.head(), request, options()).has_value());
  }
  EXPECT_EQ(alone.bits(), together.bits());
  EXPECT_EQ(score_everything(tested, 5).bits(), together.bits());
}

TEST_P(AllOutputs, RowsLeftOutAreZeroAndTheOthersAsAlone) {
  const Case tested(oracle::make_row(oracle::RowFamily::normal, 40, 4), 4);
  const auto whole = score_everything(tested).bits();
  const std::vector<std::uint8_t> mask = {0, 1, 0, 1};
  const std::vector<std::int64_t> list = {1, 3};
  Everything by_mask(4, 3, 5);
  Everything by_list(4, 3, 5);
  ScoreRequest request = tested.request();
  by_mask.ask(request);
  request.row_mask = mask;
  const auto masked = score(tested.given.head(), request, options());
  ASSERT_TRUE(masked.has_value());
  EXPECT_EQ(masked->rows, 2);
  request.row_mask = {};
  request.row_list = list;
  request.use_row_list = true;
  by_list.ask(request);
  ASSERT_TRUE(score(tested.given.head(), request, options()).has_value());
  EXPECT_EQ(by_mask.bits(), by_list.bits());
  const Everything all = score_everything(tested);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(bits_of(by_mask.logprobs[i]), mask[i] != 0 ? bits_of(all.logprobs[i]) : 0);
    EXPECT_EQ(bits_of(by_mask.log_kept[i]), mask[i] != 0 ? bits_of(all.log_kept[i]) : 0);
    EXPECT_EQ(by_mask.rank[i], mask[i] != 0 ? all.rank[i] : 0);
    for (std::size_t j = 5 * i; j < 5 * i + 5; ++j)
      EXPECT_EQ(by_mask.top_k_ids[j], mask[i] != 0 ? all.top_k_ids[j] : 0);
  }
  request.row_list = {};
  by_list.ask(request);
  ASSERT_TRUE(score(tested.given.head(), request, options()).has_value());
  EXPECT_EQ(by_list.bits(), std::vector<std::uint32_t>(whole.size(), 0));
}

ISOLOGIT_FOR_EACH_KERNEL(AllOutputs);

// Each refusal names what is wrong and where.
TEST(OutputErrors, NameTheRow) {
  const Case tested(oracle::make_row(oracle::RowFamily::normal, 10, 0), 0);
  Everything got(4, 3, 5);
  const auto message = [&](const std::function<void(ScoreRequest&)>& change) {
    ScoreRequest request = tested.request();
    got.ask(request);
    change(request);
    const auto report = score(tested.given.head(), request);
    return report ? std::string("no error") : report.error().message;
  };
  const std::vector<std::int64_t> unsorted = {0, 2, 1}, unsorted_offsets = {0, 0, 3, 3, 3};
  const std::vector<std::int64_t> twice = {4, 4}, twice_offsets = {0, 1, 2, 2, 2}, pair_offsets = {0, 0, 2, 2, 2};
  const std::vector<std::int64_t> outside = {10}, outside_offsets = {0, 0, 0, 1, 1};
  EXPECT_EQ(message([&](ScoreRequest& r) {
              r.support.kept = {unsorted_offsets, unsorted};
            }),
            "kept ids: row 1 has id 1 after 2; expected ascending ids, each once, in [0, 10)");
  EXPECT_EQ(message([&](ScoreRequest& r) {
              r.support.banned = {pair_offsets, twice};
            }),
            "banned ids: row 1 has id 4 after 4; expected ascending ids, each once, in [0, 10)");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.support.banned = {twice_offsets, twice}; }), "no error");
  EXPECT_EQ(message([&](ScoreRequest& r) {
              r.support.kept = {outside_offsets, outside};
            }),
            "kept ids: row 2 has id 10 after -1; expected ascending ids, each once, in [0, 10)");
  EXPECT_EQ(message([&](ScoreRequest& r) {
              r.support.kept = {twice, twice};
            }),
            "kept ids: 2 offsets for 4 rows; expected 5");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.support.last_id = 11; }), "support: range [0, 11) of a vocabulary of 10");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.top_k = 0; }), "top_k: 0; expected 1 to 1024");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.top_k = 1025; }), "top_k: 1025; expected 1 to 1024");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.ids = twice; }), "ids: 2 for 4 hidden rows of 3");
  const std::vector<std::int64_t> far(12, 10);
  EXPECT_EQ(message([&](ScoreRequest& r) { r.ids = far; }),
            "ids[0, 0]: 10 is outside the vocabulary [0, 10) and is not the ignore_index -100");
  const std::vector<std::uint8_t> mask = {1, 1};
  EXPECT_EQ(message([&](ScoreRequest& r) { r.row_mask = mask; }), "row_mask: 2 for 4 hidden rows");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.row_list = twice, r.use_row_list = true; }),
            "row_list[0]: 4 after -1; expected ascending indices below 4");
  EXPECT_EQ(message([&](ScoreRequest& r) { r.sum_p2 = r.lse; }), "lse: the output buffer overlaps that of sum_p2");
}

}  // namespace
}  // namespace isologit::testing_score
