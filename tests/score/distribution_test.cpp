// What is said of a row's distribution (CONTRACT.md 3) against the oracle: every family of logit rows, large gaps,
// near-certain tokens, ties and special rows.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::RowFamily;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

std::vector<std::int64_t> every_id(std::size_t vocab) {
  std::vector<std::int64_t> ids(vocab);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// The first, the last, the greatest and some in between.
std::vector<std::int64_t> some_ids(const std::vector<float>& z, std::uint64_t seed) {
  oracle::Random random(seed);
  const auto last = static_cast<std::int64_t>(z.size()) - 1;
  return {0, last, std::max_element(z.begin(), z.end()) - z.begin(), random.between(0, last), random.between(0, last)};
}

class Distribution : public KernelTest {};

TEST_P(Distribution, IsTheOraclesForEveryFamily) {
  constexpr std::array<std::int64_t, 12> vocabs = {1, 2, 3, 15, 16, 17, 63, 64, 65, 130, 300, 1000};
  const std::uint64_t seeds = is_reference() || instrumented ? 4 : 33;
  for (const RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : vocabs) {
      if ((is_reference() && vocab > 65) || (instrumented && vocab > 300)) continue;
      for (std::uint64_t seed = 0; seed < seeds; ++seed) {
        if (vocab > 300 && seed > 5) break;
        const GivenLogits row(oracle::make_row(family, vocab, seed));
        const auto ids = some_ids(row.z(), seed);
        const Outputs outputs = score_row(row, ids, options());
        ASSERT_TRUE(rows_are_right(outputs, row.z(), ids))
            << oracle::name_of(family) << " vocab " << vocab << " seed " << seed;
      }
    }
  }
}

// logprob = m + δ where m is a midpoint of two f32 numbers: δ decides, however far below m it is.
TEST_P(Distribution, LargeGapsAreDecidedByTheSignOfWhatFollows) {
  std::uint64_t midpoints = 0;
  for (std::uint64_t seed = 0; seed < (is_reference() ? 22 : 220); ++seed) {
    const GivenLogits row(oracle::make_row(RowFamily::midpoint_gap, 2 + static_cast<std::int64_t>(seed % 30), seed));
    if (oracle::is_midpoint_gap(row.z().front(), row.z().back())) ++midpoints;
    const auto ids = every_id(row.z().size());
    ASSERT_TRUE(rows_are_right(score_row(row, ids, options()), row.z(), ids)) << "seed " << seed;
  }
  EXPECT_GT(midpoints, 15U);
}

TEST_P(Distribution, GapsOfAMillionAndLogitsOf2To100) {
  std::vector<std::vector<float>> rows = {
      {200, -(100 + 0x1p-16F)},
      {1e6F, 0},
      {5e5F + 0.03125F, -(5e5F + 0.0625F)},
      {0, -1e6F, -2e6F},
      {1e6F, 1e6F, 1e6F - 0.0625F},
      {0x1p100F, 0x1p-100F},
      {-0x1p100F, -0x1.000002p100F},
      {0x1p100F, 0x1p100F, -0x1p100F},
      {0x1p-100F, -0x1p-100F},
      {0x1p-149F, 0, -0x1p-149F},
      {largest, -largest},
      {largest, largest, -largest, 0},
      {-largest, -largest},
      {-largest, -infinity},
      {largest, std::nextafter(largest, 0.0F)},
      {0x1p20F, 0x1p20F - 0.0625F},
      {0x1.000002p20F, 0x1p20F},
      {-0x1p20F, -0x1.000002p20F},
      {-0x1p21F, -0x1.000002p21F, -0x1p22F},
      {-0x1p19F, -0x1p20F, -0x1.8p20F, -0x1.000002p20F},
      {0, -87, -88, -103, -104, -149},
      {0, -700, -745, -746, -1000},
  };
  // A gap on a midpoint at every size up to 10^6, found by trying.
  oracle::Random random(1);
  for (double size = 4; size < 1.1e6; size *= 1.7) {
    for (int found = 0; found < 4;) {
      const auto top = static_cast<float>(size * (0.5 + random.uniform() / 8));
      const auto low = static_cast<float>(-size * (0.5 + random.uniform() / 8));
      if (!oracle::is_midpoint_gap(top, low)) continue;
      rows.push_back({top, low});
      ++found;
    }
  }
  for (const std::vector<float>& z : rows) {
    const GivenLogits row(z);
    const auto ids = every_id(z.size());
    EXPECT_TRUE(rows_are_right(score_row(row, ids, options()), z, ids)) << std::hexfloat << z[0] << ' ' << z[1];
  }
}

// p = 1 - 10^-k: where 1 - p is far below the spacing of f32 at 1, logprob still has all its bits.
TEST_P(Distribution, NearCertainTokensAreRightAndNeverAboveZero) {
  for (int digits = 1; digits <= 30; ++digits) {
    for (const std::int64_t vocab : {2, 5, 64, 100}) {
      for (const float top : {0.0F, 17.25F, -31.5F}) {
        const double each = digits * 2.302585092994046 + std::log(static_cast<double>(vocab - 1));
        std::vector<float> z(static_cast<std::size_t>(vocab), static_cast<float>(static_cast<double>(top) - each));
        const std::int64_t certain = digits % vocab;
        z[static_cast<std::size_t>(certain)] = top;
        const std::vector<std::int64_t> ids = {certain, (certain + 1) % vocab};
        const Outputs outputs = score_row(GivenLogits(z), ids, options());
        ASSERT_TRUE(rows_are_right(outputs, z, ids)) << "k " << digits << " vocab " << vocab;
        EXPECT_LT(outputs.logprobs[0], 0.0F);
        EXPECT_NEAR(static_cast<double>(outputs.logprobs[0]) * std::pow(10.0, digits), -1.0, 0.06);
      }
    }
  }
}

TEST_P(Distribution, EqualLogitsAreOrderedById) {
  for (const std::int64_t vocab : {5, 64, 129}) {
    std::vector<float> z(static_cast<std::size_t>(vocab));
    for (std::size_t v = 0; v < z.size(); ++v) z[v] = static_cast<float>((v * 7) % 3);
    const auto ids = every_id(z.size());
    for (const int threads : {1, 3}) {
      const Outputs outputs = score_row(GivenLogits(z), ids, options(threads));
      ASSERT_TRUE(rows_are_right(outputs, z, ids)) << vocab;
      // Each place is taken once.
      std::vector<std::int64_t> places = outputs.rank;
      std::sort(places.begin(), places.end());
      for (std::size_t i = 0; i < places.size(); ++i) EXPECT_EQ(places[i], static_cast<std::int64_t>(i) + 1);
    }
  }
}

// -0 and +0 are one number, so one tie.
TEST_P(Distribution, SignedZerosAreEqual) {
  std::vector<float> z(70, -0.0F);
  z[40] = 0.0F;
  const std::vector<std::int64_t> ids = {0, 40, 69};
  const Outputs outputs = score_row(GivenLogits(z), ids, options());
  EXPECT_TRUE(rows_are_right(outputs, z, ids));
  EXPECT_EQ(outputs.argmax[0], 0);
  EXPECT_EQ(outputs.rank[1], 41);
}

// Hidden states of NaN, inf and -inf make special rows; those beside them do not notice.
TEST_P(Distribution, SpecialRowsDoNotTouchTheirNeighbours) {
  oracle::Random random(3);
  std::vector<float> weight(100);
  for (float& w : weight) w = static_cast<float>(1.0 + random.uniform());  // > 0: inf times it is inf
  std::vector<float> hidden;
  std::vector<std::int64_t> ids;
  constexpr std::array<float, 9> values = {1.5F, not_a_number, -2, infinity, 3, -infinity, 0, largest, 0.25F};
  for (std::size_t i = 0; i < 45; ++i) {
    hidden.push_back(values[(i + i / values.size()) % values.size()]);
    ids.push_back(i % 4 == 3 ? -100 : random.between(0, 99));
  }
  Head head;
  head.weight = matrix(weight, 100, 1);
  head.vocab_size = 100;
  for (const int threads : {1, 2, 5}) {
    const Outputs outputs = score_all(head, matrix(hidden, 45, 1), ids, {}, options(threads));
    for (std::size_t n = 0; n < 45; ++n) {
      const auto row = static_cast<std::int64_t>(n);
      if (ids[n] == -100) {
        EXPECT_TRUE(same_row(
            outputs, row,
            [] {
              Outputs zeros(1);
              zeros.logprobs[0] = zeros.lse[0] = zeros.entropy[0] = 0;
              zeros.argmax[0] = zeros.rank[0] = 0;
              return zeros;
            }(),
            0));
        continue;
      }
      std::vector<float> z;
      for (const float w : weight) {
        const double h = static_cast<double>(hidden[n]);
        const double wide = static_cast<double>(w);
        z.push_back(oracle::logit(&h, &wide, 1));
      }
      EXPECT_TRUE(row_is_right(outputs, row, z, ids[n])) << "hidden " << hidden[n];
    }
    EXPECT_EQ(outputs.report.rows, 45 - 11);
  }
}

// One NaN, +inf or finite logit anywhere, in a row of several tiles.
TEST_P(Distribution, OneSpecialLogitAnywhere) {
  for (const float special : {not_a_number, infinity, -infinity, 3.0F}) {
    for (const float rest : {0.5F, -infinity}) {
      for (const std::size_t place : {0U, 1U, 31U, 63U, 64U, 90U, 129U}) {
        std::vector<float> z(130, rest);
        z[place] = special;
        const std::vector<std::int64_t> ids = {static_cast<std::int64_t>(place), 5, 128};
        for (const int threads : {1, 4}) {
          ASSERT_TRUE(rows_are_right(score_row(GivenLogits(z), ids, options(threads)), z, ids))
              << special << " at " << place << " among " << rest;
        }
      }
    }
  }
}

TEST_P(Distribution, OutputsNotAskedForAreNotNeeded) {
  const GivenLogits row(oracle::make_row(RowFamily::normal, 200, 3));
  const std::vector<std::int64_t> ids = {7, 199};
  const Outputs all = score_row(row, ids, options());
  const MatrixView hidden = row.hidden(2);
  for (int output = 0; output < 5; ++output) {
    Outputs one(2);
    ScoreRequest request;
    request.hidden = hidden;
    if (output == 0 || output == 4) request.token_ids = ids;  // the others do without
    if (output == 0) request.logprobs = one.logprobs.data();
    if (output == 1) request.lse = one.lse.data();
    if (output == 2) request.entropy = one.entropy.data();
    if (output == 3) request.argmax = one.argmax.data();
    if (output == 4) request.rank = one.rank.data();
    ASSERT_TRUE(score(row.head(), request, options()));
    Outputs expected(2);
    if (output == 0) expected.logprobs = all.logprobs;
    if (output == 1) expected.lse = all.lse;
    if (output == 2) expected.entropy = all.entropy;
    if (output == 3) expected.argmax = all.argmax;
    if (output == 4) expected.rank = all.rank;
    EXPECT_TRUE(same_rows(one, expected)) << "output " << output;
  }
}

TEST_P(Distribution, NoRowsAndNoOutputsAreFine) {
  const GivenLogits row({1, 2});
  const Outputs none = score_all(row.head(), row.hidden(0), {}, {}, options());
  EXPECT_EQ(none.report.rows, 0);
  ScoreRequest request;
  request.hidden = row.hidden(1);
  EXPECT_TRUE(score(row.head(), request, options()));
}

ISOLOGIT_FOR_EACH_KERNEL(Distribution);

}  // namespace
}  // namespace isologit::testing_score
