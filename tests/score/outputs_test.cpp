// Everything a score can be asked for, against the oracle: supports, given ids, top-k, sum_p2, log_kept, raw logprobs;
// asked for together and alone; rows left out; and requests that are refused.
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>

#include "oracle/cases.hpp"
#include "oracle/values.hpp"
#include "score/everything.hpp"

namespace isologit::testing_score {
namespace {

using oracle::bits_of;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

class AllOutputs : public KernelTest {};

TEST_P(AllOutputs, AreTheOraclesForEveryFamilyAndSupport) {
  for (const oracle::RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : {1, 2, 17, 70, 200}) {
      if (is_reference() && vocab > 17) continue;
      for (std::uint64_t seed = 0; seed < (is_reference() || instrumented ? 6 : 24); ++seed) {
        const Case tested(oracle::make_row(family, vocab, seed), seed);
        expect_rows_are_right(tested, score_everything(tested, options()));
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
      tested.token_ids[0] = only;
      const Everything got = score_everything(tested, options());
      expect_rows_are_right(tested, got);
      EXPECT_EQ(bits_of(got.logprobs[0]), 0U);
      EXPECT_EQ(got.rank[0], 1);
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(bits_of(got.entropy[i]), 0U);
        EXPECT_EQ(got.sum_p2[i], 1);
      }
    }
  }
}

// What is settled in rational arithmetic: one finite logit, all equal, no mass dropped; at gaps of 10^6.
TEST_P(AllOutputs, ExactCases) {
  for (std::vector<float> z : {std::vector<float>{-infinity, 7, -infinity, -infinity, -infinity},
                               {-3, -3, -3, -3, -3},
                               {1e6F, 1e6F, -infinity, -infinity, 1e6F},
                               {1e6F, -1e6F, -1e6F, 0, 1e6F},
                               {-1e6F, 0, 0, -1e6F, -1e6F}}) {
    for (const std::vector<std::int64_t>& ban : {std::vector<std::int64_t>{}, {2, 3}, {0}, {0, 1, 2, 3, 4}}) {
      Case tested(z, 0);
      tested.has_banned = true;
      tested.banned = {};
      for (std::int64_t i = 0; i < tested.rows; ++i) tested.banned.add(ban);
      tested.temperatures = {1, 0.5F, 3, 1e-3F};
      const Everything got = score_everything(tested, options());
      expect_rows_are_right(tested, got);
      if (ban.size() == 2 && z[2] == -infinity) {
        EXPECT_EQ(bits_of(got.log_kept[0]), 0U);  // of ids that have no mass
      }
    }
  }
}

// Each special row of CONTRACT.md 3 beside healthy ones, all from the same logits.
TEST_P(AllOutputs, SpecialRowsBesideHealthyOnes) {
  const std::vector<float> z = {1, not_a_number, 2, infinity, -infinity, 0.5F, not_a_number, 2};
  const std::vector<std::vector<std::int64_t>> kept = {{0, 2, 5, 7},  // healthy but for log_kept
                                                       {0, 3, 4, 6},  // NaN goes before +inf
                                                       {2, 3, 4},     // +inf
                                                       {4},           // nothing above -inf
                                                       {},            // nothing at all
                                                       {1, 2, 6},    {0, 4, 7}};
  for (std::int64_t id = 0; id < 8; ++id) {
    Case tested(z, 0);
    tested.rows = static_cast<std::int64_t>(kept.size());
    tested.has_kept = true;
    tested.kept = {};
    tested.ids = tested.token_ids = {};
    tested.temperatures.assign(kept.size(), 0.75F);
    for (const auto& ids : kept) {
      tested.kept.add(ids);
      tested.token_ids.push_back(id);
      for (std::int64_t j = 0; j < tested.per_row; ++j) tested.ids.push_back((id + j) % 8);
    }
    const Everything got = score_everything(tested, options());
    expect_rows_are_right(tested, got);
    ASSERT_FALSE(HasFailure()) << "id " << id;
    EXPECT_FALSE(std::isnan(got.lse[0]));
    EXPECT_EQ(bits_of(got.lse[1]), 0x7FC00000U);
    EXPECT_EQ(got.lse[2], infinity);
    EXPECT_EQ(got.lse[4], -infinity);
  }
}

TEST_P(AllOutputs, MoreAskedForThanThereIs) {
  for (const std::int64_t k : {1, 16, 17, 1024}) {
    Case tested(oracle::make_row(oracle::RowFamily::top_ties, 16, 2), 2);
    tested.k = k;
    expect_rows_are_right(tested, score_everything(tested, options()));
  }
}

// Every combination of outputs: what is asked for has the same bits, what is not is left alone. One of the cases has
// logits beyond 2^20, so that it takes a further round; what takes part in it depends on what is asked for.
TEST_P(AllOutputs, InEveryCombination) {
  for (const std::uint64_t seed : {1U, 2U}) {
    std::vector<float> z = oracle::make_row(oracle::RowFamily::normal, is_reference() ? 9 : 40, 3);
    if (seed == 2) z[5] = z[3] = 0x1.1p20F;
    const Case tested(z, seed);
    const Everything together = score_everything(tested, options());
    expect_rows_are_right(tested, together);
    EXPECT_EQ(score_everything(tested, options(5)).bits(), together.bits());
    const unsigned step = is_reference() || instrumented ? 37 : 1;
    for (unsigned which = 0; which <= Everything::kAll; which += step) {
      Everything some(tested);
      ScoreRequest request = tested.request();
      some.ask(request, which);
      ASSERT_TRUE(score(tested.given.head(), request, options()).has_value());
      ASSERT_EQ(some.bits(), together.only(which, tested).bits()) << "outputs " << which << " seed " << seed;
    }
  }
}

TEST_P(AllOutputs, RowsLeftOutAreZeroAndTheOthersAsAlone) {
  const Case tested(oracle::make_row(oracle::RowFamily::normal, 40, 4), 4);
  const auto whole = score_everything(tested, options()).bits();
  const std::vector<std::uint8_t> mask = {0, 1, 0, 1};
  const std::vector<std::int64_t> list = {1, 3};
  Everything by_mask(tested);
  Everything by_list(tested);
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
  for (const std::size_t i : {1U, 3U}) expect_row_is_right(tested, by_mask, i);
  const auto zero = [](const auto& values, std::size_t row) {
    const std::size_t each = values.size() / 4;
    for (std::size_t j = row * each; j < (row + 1) * each; ++j) {
      if (values[j] != 0 || std::signbit(static_cast<double>(values[j]))) return false;
    }
    return true;
  };
  for (const std::size_t row : {0U, 2U}) {
    for (const auto* floats :
         {&by_mask.logprobs, &by_mask.raw_logprobs, &by_mask.lse, &by_mask.entropy, &by_mask.sum_p2, &by_mask.log_kept,
          &by_mask.ids_logprobs, &by_mask.top_k_logprobs, &by_mask.logits}) {
      EXPECT_TRUE(zero(*floats, row));
    }
    for (const auto* ids : {&by_mask.argmax, &by_mask.rank, &by_mask.top_k_ids}) EXPECT_TRUE(zero(*ids, row));
  }
  request.row_list = {};
  by_list.ask(request);
  ASSERT_TRUE(score(tested.given.head(), request, options()).has_value());
  EXPECT_EQ(by_list.bits(), std::vector<std::uint32_t>(whole.size(), 0));
}

// Rows that are left out are not even read: their hidden states lie in a page that cannot be.
TEST_P(AllOutputs, RowsLeftOutAreNotRead) {
  constexpr std::size_t kPage = 4096;
  void* pages = ::mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  const auto free_pages = [](void* at) { ::munmap(at, 3 * kPage); };
  const std::unique_ptr<void, decltype(free_pages)> owner(pages, free_pages);
  const float one = 1;
  for (const std::size_t page : {0U, 2U}) std::memcpy(static_cast<char*>(pages) + page * kPage, &one, sizeof one);
  ASSERT_EQ(::mprotect(static_cast<char*>(pages) + kPage, kPage, PROT_NONE), 0);
  Case tested(oracle::make_row(oracle::RowFamily::normal, 30, 1), 2);
  tested.rows = 3;
  for (auto* ids : {&tested.token_ids, &tested.ids}) ids->resize(ids->size() / 4 * 3);
  tested.temperatures.resize(3);
  tested.kept.offsets.resize(4);
  tested.kept.ids.resize(static_cast<std::size_t>(tested.kept.offsets.back()));
  Everything got(tested);
  ScoreRequest request = tested.request();
  request.hidden = {pages, DType::f32, 3, 1, kPage / sizeof(float)};
  got.ask(request);
  const std::vector<std::int64_t> list = {0, 2};
  const std::vector<std::uint8_t> mask = {1, 0, 1};
  request.row_mask = mask;
  ASSERT_TRUE(score(tested.given.head(), request, options(2)));
  request.row_mask = {};
  request.row_list = list;
  request.use_row_list = true;
  ASSERT_TRUE(score(tested.given.head(), request, options(2)));
  for (const std::size_t row : {0U, 2U}) expect_row_is_right(tested, got, row);
  request.row_list = {};
  request.use_row_list = false;
  std::vector<std::int64_t> ids = tested.token_ids;
  ids[1] = -100;
  request.token_ids = ids;
  const auto ignored = score(tested.given.head(), request, options(2));
  ASSERT_TRUE(ignored);
  EXPECT_EQ(ignored->rows, 2);
}

ISOLOGIT_FOR_EACH_KERNEL(AllOutputs);

// Each refusal names what is wrong and where.
TEST(OutputErrors, NameTheRow) {
  const Case tested(oracle::make_row(oracle::RowFamily::normal, 10, 0), 0);
  Everything got(tested);
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
              r.support.kept = {unsorted, twice};
            }),
            "kept ids: 3 offsets for 4 rows; expected 5, or 2 of one list for all");
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
