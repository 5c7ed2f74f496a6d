// Gradients of a vocabulary that parties share are the oracle's: dhidden of all, dweight and dbias of each one's rows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backward/problem.hpp"
#include "isologit/score.hpp"
#include "parties/meeting.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// A party's part of the gradients of all; dhidden has a buffer of its own.
BackwardRequest part_of_request(const Problem& problem, const std::vector<std::int64_t>& split, std::size_t p,
                                std::vector<float>& dhidden, Gradients& all) {
  BackwardRequest request = problem.request();
  request.dhidden = {dhidden.data(), DType::f32, problem.cols(), false};
  request.dweight = {all.dweight.data() + split[p] * problem.cols(), DType::f32, problem.cols(), false};
  request.dbias = {all.dbias.data() + split[p], DType::f32, problem.vocab(), false};
  return request;
}

// The parts of all parties put together; dhidden is the last party's, and that of all. With row_split party p has rows
// [row_split[p], row_split[p + 1]) of hidden, which it alone makes, and writes no others.
Gradients run_parties(const Problem& problem, const std::vector<std::int64_t>& split, const BackwardOptions& options,
                      const std::vector<std::int64_t>& row_split = {}) {
  Gradients all{
      {}, std::vector<float>(size(problem.vocab() * problem.cols())), std::vector<float>(size(problem.vocab())), {}};
  constexpr float kUntouched = 12345;
  std::vector<std::vector<float>> dhidden(split.size() - 1,
                                          std::vector<float>(size(problem.rows() * problem.cols()), kUntouched));
  Meeting meeting(split.size() - 1);
  meeting.hold([&](std::size_t p) {
    BackwardOptions own = options;
    own.threads = static_cast<int>(p % 3) + 1;
    own.peers = meeting.peers(p, split[p], problem.vocab());
    if (!row_split.empty()) own.peers->own_rows = meeting.own_rows(p, row_split[p], row_split[p + 1]);
    const BackwardRequest request = part_of_request(problem, split, p, dhidden[p], all);
    const auto report = backward(part_of(problem.head(), split[p], split[p + 1]), request, own);
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report.has_value();
  });
  if (row_split.empty()) {
    for (const std::vector<float>& one : dhidden) expect_same_bits(one, dhidden[0], "dhidden of the parties");
    all.dhidden = dhidden.back();
    return all;
  }
  for (std::size_t p = 0; p + 1 < row_split.size(); ++p) {
    for (std::int64_t i = 0; i < problem.rows() * problem.cols(); ++i) {
      const std::int64_t row = i / problem.cols();
      const float got = dhidden[p][size(i)];
      if (row >= row_split[p] && row < row_split[p + 1]) {
        all.dhidden.push_back(got);
      } else {
        EXPECT_TRUE(got == kUntouched || got == 0) << "row " << row << " of party " << p;  // 0: no upstream
      }
    }
  }
  return all;
}

// Rows as even as they can be, all with the first or the last party, and uneven ones.
std::vector<std::vector<std::int64_t>> row_splits_of(std::int64_t rows, std::size_t parties) {
  std::vector<std::vector<std::int64_t>> splits(4, std::vector<std::int64_t>(parties + 1, 0));
  const auto last = static_cast<std::int64_t>(parties);
  for (std::int64_t p = 1; p <= last; ++p) {
    splits[0][size(p)] = rows * p / last;
    splits[1][size(p)] = rows;
    splits[2][size(p)] = p == last ? rows : 0;
    splits[3][size(p)] = p == last ? rows : std::min(rows, p * p - 1);
  }
  return splits;
}

BackwardOptions exact() {
  BackwardOptions options;
  options.arithmetic = Arithmetic::exact;
  return options;
}

TEST(Parties, ExactGradientsAreTheOracles) {
  for (const DotFamily family : oracle::dot_families) {
    Problem problem = make_problem({5, 37, 11, DType::bf16, DType::bf16, DType::f32}, family, 7, 2);
    problem.temperatures = {0.7F};
    const Expected expected = expect(problem);
    for (const auto& split : splits_of(37)) {
      const std::string name = fmt::format("{} {}", name_of(family), split.size() - 1);
      expect_same_bits(run_parties(problem, split, exact()), expected.gradients, name);
      for (const auto& rows : row_splits_of(5, split.size() - 1)) {
        expect_same_bits(run_parties(problem, split, exact(), rows), expected.gradients, name + " of own rows");
      }
    }
  }
}

TEST(Parties, ExactGradientsOfEveryWidth) {
  // More ids than a chunk, derivatives that f64 does not settle, and sums that two doubles do not hold.
  const Problem wide = make_problem({20, 1500, 4, DType::bf16, DType::bf16, {}}, DotFamily::normal, 61);
  const Gradients of_wide = expect(wide).gradients;
  expect_same_bits(run_parties(wide, splits_of(1500)[4], exact()), of_wide, "wide");
  expect_same_bits(run_parties(wide, splits_of(1500)[4], exact(), row_splits_of(20, 7)[0]), of_wide, "wide, own rows");
  Problem reference = make_problem({3, 30, 5, DType::bf16, DType::bf16, {}}, DotFamily::outliers, 62);
  reference.transforms = {true, 1.5F, ScaleKind::divide, 3.3F};
  BackwardOptions options = exact();
  options.kernel = "reference";  // every derivative and every sum by definition
  const Gradients of_reference = expect(reference).gradients;
  expect_same_bits(run_parties(reference, splits_of(30)[3], options), of_reference, "reference");
  expect_same_bits(run_parties(reference, splits_of(30)[3], options, row_splits_of(3, 4)[0]), of_reference,
                   "reference, own rows");
}

// With what the forward pass of all parties left, backward passes over the weight once.
TEST(Parties, SummariesOfAForwardPass) {
  Problem problem = make_problem({6, 300, 8, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 9);
  const std::vector<std::int64_t> split = splits_of(300)[4];
  std::vector<std::vector<RowSummary>> summaries(split.size() - 1, std::vector<RowSummary>(6));
  Meeting meeting(split.size() - 1);
  meeting.hold([&](std::size_t p) {
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    request.summaries = summaries[p].data();
    ScoreOptions options;
    options.peers = meeting.peers(p, split[p], 300);
    return score(part_of(problem.head(), split[p], split[p + 1]), request, options).has_value();
  });
  problem.summaries = summaries[2];
  expect_same_bits(run_parties(problem, split, exact()), expect(problem).gradients, "summaries");
}

// dhidden in a fixed order: the same bits on all parties, near the oracle's.
TEST(Parties, FastGradientsAreWithinTheirBound) {
  const Problem problem = make_problem({6, 300, 8, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 9);
  const Gradients got = run_parties(problem, splits_of(300)[4], {});
  const Gradients own = run_parties(problem, splits_of(300)[4], {}, row_splits_of(6, 7)[3]);
  expect_same_bits(own.dhidden, got.dhidden, "own rows: sums in the same order");
  const Expected expected = expect(problem);
  for (std::int64_t n = 0; n < 6; ++n) {
    double reach = 0;
    for (std::int64_t v = 0; v < 300; ++v) {
      double norm = 0;
      for (std::int64_t k = 0; k < 8; ++k) norm += std::pow(problem.data.weight_row(v)[k], 2);
      reach += std::fabs(static_cast<double>(expected.dz[static_cast<std::size_t>(n * 300 + v)])) * std::sqrt(norm);
    }
    for (std::size_t i = static_cast<std::size_t>(n) * 8; i < static_cast<std::size_t>(n + 1) * 8; ++i) {
      EXPECT_LE(std::fabs(static_cast<double>(got.dhidden[i]) - static_cast<double>(expected.gradients.dhidden[i])),
                0x1p-16 * reach);
    }
  }
}

// Of equal logits dz is 1/8 everywhere. What is large cancels between two of three parties; it leaves the lower
// doubles, and the third one's sum.
TEST(Parties, SumsThatCancelBetweenParties) {
  const std::vector<float> hidden(2 * 3, 0.0F);
  const std::vector<float> weight = {0x1p60F, 3, 1, 0x1p70F, 0, 0, -0x1p60F, -0x1p70F, 0, 0x1p-10F, 0, 0, 6, 8, 1, 0};
  const std::vector<std::int64_t> split = {0, 3, 6, 8};
  const std::vector<float> d_lse = {1, 1, 1};
  for (const bool own_rows : {false, true}) {
    std::vector<std::vector<float>> dhidden(3, std::vector<float>(6, -1.0F));
    Meeting meeting(3);
    meeting.hold([&](std::size_t p) {
      Head head;
      head.weight = {weight.data(), DType::f32, 8, 2, 2};
      head.vocab_size = 8;
      BackwardRequest request;
      request.hidden = {hidden.data(), DType::f32, 3, 2, 2};
      request.d_lse = d_lse.data();
      request.dhidden = {dhidden[p].data(), DType::f32, 2, false};
      BackwardOptions options = exact();
      options.peers = meeting.peers(p, split[p], 8);
      const auto first = static_cast<std::int64_t>(p);
      if (own_rows) options.peers->own_rows = meeting.own_rows(p, first, first + 1);
      const auto report = backward(part_of(head, split[p], split[p + 1]), request, options);
      EXPECT_TRUE(report.has_value()) << report.error().message;
      EXPECT_EQ(report->sum_fallbacks, 6);
      return report.has_value();
    });
    for (std::size_t n = 0; n < 3; ++n) {
      EXPECT_EQ(dhidden[n][2 * n], 8 * 0.125F) << own_rows;
      EXPECT_EQ(dhidden[n][2 * n + 1], (11 + 0x1p-10F) * 0.125F) << own_rows;
    }
  }
}

// A sum of two doubles goes to one party, not to all.
TEST(Parties, SumsGoToThePartyThatHasTheRow) {
  Problem problem = make_problem({32, 64, 200, DType::bf16, DType::bf16, {}}, DotFamily::normal, 3);
  std::fill(problem.ids.begin(), problem.ids.end(), 5);  // no row is ignored
  const std::vector<std::int64_t> split = {0, 16, 32, 48, 64};
  Gradients all{{}, std::vector<float>(64 * 200), std::vector<float>(64), {}};
  std::vector<std::vector<float>> dhidden(4, std::vector<float>(32 * 200));
  Meeting meeting(4);
  meeting.hold([&](std::size_t p) {
    BackwardOptions own = exact();
    own.peers = meeting.peers(p, split[p], 64);
    const auto first = static_cast<std::int64_t>(p) * 8;
    own.peers->own_rows = meeting.own_rows(p, first, first + 8);
    const BackwardRequest request = part_of_request(problem, split, p, dhidden[p], all);
    return backward(part_of(problem.head(), split[p], split[p + 1]), request, own).has_value();
  });
  const std::size_t sums = 3 * 32 * 200 * 16;  // each party hands three quarters of its rows' sums to the others
  EXPECT_GE(meeting.scattered_bytes(), sums);
  EXPECT_LE(meeting.scattered_bytes(), sums + sums / 20);
  EXPECT_LT(meeting.most_bytes(), 2 * 200 * 16);  // to all: less than the sums of two rows
}

TEST(Parties, OwnRowsAreEveryRowOnce) {
  const Problem problem = make_problem({5, 37, 11, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 7);
  const std::vector<std::int64_t> split = {0, 20, 37};
  const auto told = [&](std::vector<OwnRows> rows, std::size_t with) {
    Gradients all{{}, std::vector<float>(37 * 11), std::vector<float>(37), {}};
    std::vector<std::vector<float>> dhidden(2, std::vector<float>(5 * 11));
    Meeting meeting(2);
    std::string message;
    meeting.hold([&](std::size_t p) {
      BackwardOptions own = exact();
      own.peers = meeting.peers(p, split[p], 37);
      if (p < with) {
        own.peers->own_rows = meeting.own_rows(p, rows[p].first_row, rows[p].last_row);
        own.peers->own_rows->party = rows[p].party;
      }
      const BackwardRequest request = part_of_request(problem, split, p, dhidden[p], all);
      const auto report = backward(part_of(problem.head(), split[p], split[p + 1]), request, own);
      if (p == 0) message = report ? "right" : report.error().message;
      return report.has_value();
    });
    return message;
  };
  const std::string once = "; expected every row of hidden [0, 5) once";
  EXPECT_EQ(told({{1, 0, 2, {}}, {0, 2, 5, {}}}, 2), "right");
  EXPECT_EQ(told({{1, 0, 2, {}}, {0, 2, 4, {}}}, 2), "peers: own_rows: the parties have rows up to last_row 4" + once);
  EXPECT_EQ(told({{1, 0, 2, {}}, {0, 1, 5, {}}}, 2),
            "peers: own_rows: a party has first_row 1 and last_row 5, and those before it have rows up to 2" + once);
  EXPECT_EQ(told({{1, 0, 2, {}}, {1, 2, 5, {}}}, 2),
            "peers: own_rows: a party has number 1 of 2; expected each from 0 on, once");
  EXPECT_EQ(told({{1, 0, 5, {}}, {}}, 1),
            "peers: own_rows: given by some parties and not by others; expected all or none");
  EXPECT_EQ(told({{0, 0, 6, {}}, {1, 0, 0, {}}}, 2),
            "peers: party is 0, first_row 0 and last_row 6; expected a number from 0 up, and rows of hidden [0, 5)");
}

}  // namespace
}  // namespace isologit::test
