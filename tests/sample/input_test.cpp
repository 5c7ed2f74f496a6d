// Requests that must be refused, each with a message that names what is wrong.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "sample/draws.hpp"

namespace isologit::test {
namespace {

// A valid request of three rows, to be spoilt.
struct Case {
  std::vector<float> weight = {1, 2, 3, 4};
  std::vector<float> hidden = {1, 2, 3};
  std::vector<float> temperatures = {1, 0, 2};
  std::vector<float> min_p = {0, 0.5F, 1};
  std::vector<float> top_p = {0.5F, 1, 1};
  std::vector<std::int64_t> top_k = {0, 1, 9};
  std::vector<std::uint64_t> seeds = {1, 2, 3};
  std::vector<std::uint64_t> sequences = {1};
  std::vector<std::uint32_t> positions = {1, 2, 3};
  std::vector<std::int64_t> ids = std::vector<std::int64_t>(3);
  std::vector<float> logprobs = std::vector<float>(3);
  float* kept = nullptr;
  Support support;
  std::vector<std::uint8_t> row_mask;
  std::vector<std::int64_t> row_list;
  std::int64_t rows = 3;

  Result<SampleReport> run() {
    SampleRequest request;
    request.hidden = {hidden.data(), DType::f32, rows, 1, 1};
    request.temperatures = temperatures;
    request.seeds = seeds;
    request.sequence_ids = sequences;
    request.positions = positions;
    request.min_p = min_p;
    request.top_k = top_k;
    request.top_p = top_p;
    request.support = support;
    request.row_mask = row_mask;
    request.row_list = row_list;
    request.use_row_list = !row_list.empty();
    request.ids = ids.data();
    request.logprobs = logprobs.data();
    request.log_kept_cut = kept;
    return sample(head_of(weight), request);
  }
};

void expect_refused(const std::string& message, const std::function<void(Case&)>& spoil) {
  Case one;
  spoil(one);
  const Result<SampleReport> report = one.run();
  ASSERT_FALSE(report) << message;
  EXPECT_EQ(report.error().code, StatusCode::invalid_argument);
  EXPECT_EQ(report.error().message, message);
}

TEST(Input, TheCaseItselfIsValid) {
  Case one;
  EXPECT_TRUE(one.run());
  EXPECT_EQ(one.ids[1], 3);
}

TEST(Input, NoRows) {
  Case one;
  one.rows = 0;
  one.temperatures = {1};
  one.min_p = one.top_p = {};
  one.top_k = {};
  one.seeds = {};
  one.positions = {};
  const Result<SampleReport> report = one.run();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->rows, 0);
}

TEST(Input, ValuesOutOfRange) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  expect_refused("temperatures[1]: -1; expected a finite number above 0, or 0",
                 [](Case& one) { one.temperatures[1] = -1; });
  expect_refused("temperatures[2]: nan; expected a finite number above 0, or 0",
                 [](Case& one) { one.temperatures[2] = nan; });
  expect_refused("temperatures[0]: inf; expected a finite number above 0, or 0",
                 [](Case& one) { one.temperatures[0] = infinity; });
  expect_refused("min_p[1]: 1.5; expected 0 (no cut) to 1", [](Case& one) { one.min_p[1] = 1.5F; });
  expect_refused("min_p[0]: nan; expected 0 (no cut) to 1", [](Case& one) { one.min_p[0] = nan; });
  expect_refused("top_k[2]: -1; expected 0 (no cut) or above", [](Case& one) { one.top_k[2] = -1; });
  expect_refused("top_p[0]: 0; expected a number above 0, up to 1 (no cut)", [](Case& one) { one.top_p[0] = 0; });
  expect_refused("top_p[1]: 1.5; expected a number above 0, up to 1 (no cut)", [](Case& one) { one.top_p[1] = 1.5F; });
  expect_refused("top_p[2]: nan; expected a number above 0, up to 1 (no cut)", [](Case& one) { one.top_p[2] = nan; });
}

TEST(Input, Lengths) {
  expect_refused("temperatures: 2 for 3 rows; expected none, one or one per row", [](Case& one) {
    one.temperatures = {1, 2};
  });
  expect_refused("seeds: 0 for 3 rows; expected one or one per row", [](Case& one) { one.seeds = {}; });
  expect_refused("sequence_ids: 2 for 3 rows; expected one or one per row", [](Case& one) { one.sequences = {1, 2}; });
  expect_refused("positions: 4 for 3 rows; expected one or one per row", [](Case& one) {
    one.positions = {1, 2, 3, 4};
  });
  expect_refused("min_p: 2 for 3 rows; expected none, one or one per row", [](Case& one) { one.min_p = {0, 0}; });
  expect_refused("top_k: 4 for 3 rows; expected none, one or one per row", [](Case& one) { one.top_k = {1, 2, 3, 4}; });
  expect_refused("top_p: 2 for 3 rows; expected none, one or one per row", [](Case& one) { one.top_p = {1, 1}; });
}

TEST(Input, SupportsNameTheRow) {
  const std::vector<std::int64_t> first = {0, 0, 3, 3}, second = {0, 0, 2, 2}, third = {0, 0, 0, 1};
  const std::vector<std::int64_t> unsorted = {0, 2, 1}, twice = {3, 3}, outside = {4}, negative = {-1};
  expect_refused("kept ids: row 1 has id 1 after 2; expected ascending ids, each once, in [0, 4)", [&](Case& one) {
    one.support.kept = {first, unsorted};
  });
  expect_refused("banned ids: row 1 has id 3 after 3; expected ascending ids, each once, in [0, 4)", [&](Case& one) {
    one.support.banned = {second, twice};
  });
  expect_refused("banned ids: row 2 has id 4 after -1; expected ascending ids, each once, in [0, 4)", [&](Case& one) {
    one.support.banned = {third, outside};
  });
  expect_refused("kept ids: row 2 has id -1 after -1; expected ascending ids, each once, in [0, 4)", [&](Case& one) {
    one.support.kept = {third, negative};
  });
  expect_refused("kept ids: 2 offsets for 3 rows; expected 4", [&](Case& one) { one.support.kept = {twice, outside}; });
  expect_refused("kept ids: offsets from 0 to 3 for 2 ids; expected 0 to 2", [&](Case& one) {
    one.support.kept = {first, twice};
  });
  const std::vector<std::int64_t> falling = {0, 2, 1, 2};
  expect_refused("banned ids: the offsets of row 1 go from 2 to 1 of 2 ids", [&](Case& one) {
    one.support.banned = {falling, {unsorted.data(), 2}};
  });
  expect_refused("support: range [3, 2) of a vocabulary of 4", [](Case& one) {
    one.support.first_id = 3;
    one.support.last_id = 2;
  });
  expect_refused("support: range [0, 5) of a vocabulary of 4", [](Case& one) { one.support.last_id = 5; });
}

TEST(Input, RowSelection) {
  expect_refused("row_mask: 2 for 3 hidden rows", [](Case& one) { one.row_mask = {1, 1}; });
  expect_refused("row_list[1]: 1 after 1; expected ascending indices below 3", [](Case& one) {
    one.row_list = {1, 1};
  });
  expect_refused("row_list[0]: 3 after -1; expected ascending indices below 3", [](Case& one) { one.row_list = {3}; });
  expect_refused("row_list and row_mask: both given; expected one of them", [](Case& one) {
    one.row_list = {1};
    one.row_mask = {1, 1, 1};
  });
}

TEST(Input, Overlap) {
  const std::vector<std::int64_t> offsets = {0, 1, 1, 1};
  expect_refused("ids: the output buffer overlaps the input kept ids", [&](Case& one) {
    one.ids = {0, 0, 0};
    one.support.kept = {offsets, {one.ids.data(), 1}};
  });
  expect_refused("log_kept_cut: the output buffer overlaps the input top_p",
                 [](Case& one) { one.kept = one.top_p.data(); });
  expect_refused("logprobs: the output buffer overlaps that of log_kept_cut",
                 [](Case& one) { one.kept = one.logprobs.data() + 2; });
}

TEST(Input, CancelledByTheCallback) {
  Plan plan;
  plan.options.threads = 1;
  plan.options.progress = [](double) { return false; };
  const Result<Draws> draws = draw(std::vector<float>(10'000, 1.0F), plan);
  ASSERT_FALSE(draws);
  EXPECT_EQ(draws.error().code, StatusCode::cancelled);
}

}  // namespace
}  // namespace isologit::test
