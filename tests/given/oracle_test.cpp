// Results of given logits against the oracle, bit for bit: every family of rows, every type and layout, hard rows.
#include <algorithm>
#include <array>
#include <limits>

#include "given/support.hpp"
#include "oracle/cases.hpp"
#include "oracle/values.hpp"
#include "score/hard_rows.hpp"
#include "score/support.hpp"

namespace isologit::testing_given {
namespace {

using oracle::RowFamily;
using testing_score::instrumented;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

class GivenLogits : public testing_score::KernelTest {
 protected:
  void expect_right(const Given& given, const std::string& what, int threads = 1) const {
    expect_same(score_given(given, options(threads)), expected(given), what);
  }
};

TEST_P(GivenLogits, AreTheOraclesForEveryFamily) {
  constexpr std::array<std::int64_t, 9> vocabs = {1, 2, 3, 16, 17, 127, 128, 130, 700};
  for (const RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : vocabs) {
      if ((is_reference() && vocab > 17) || (instrumented && vocab > 130)) continue;
      std::vector<std::vector<float>> rows;
      const std::uint64_t seeds = is_reference() || instrumented || vocab > 130 ? 4 : 31;
      for (std::uint64_t seed = 0; seed < seeds; ++seed) rows.push_back(oracle::make_row(family, vocab, seed));
      Given given = make_given(rows);
      given.draw_ids(1 + vocab % 3, static_cast<std::uint64_t>(vocab));
      expect_right(given, std::string(oracle::name_of(family)) + " vocab " + std::to_string(vocab));
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST_P(GivenLogits, OfEveryTypeAndLayout) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (const Layout& layout : {Layout{dtype, 0, 0, false}, Layout{dtype, 5, 1, false}, Layout{dtype, 2, 3, true}}) {
      const std::int64_t vocab = is_reference() ? 20 : 300;
      std::vector<std::vector<float>> rows;
      for (const RowFamily family : oracle::row_families) rows.push_back(oracle::make_row(family, vocab, 2));
      Given given = make_given(rows, layout);
      given.draw_ids(2, 5);
      expect_right(given, std::string(dtype_name(dtype)) + " gap " + std::to_string(layout.gap));
    }
  }
}

// Every number that f16 and bf16 have, alone in a row: its lse is the number itself.
TEST_P(GivenLogits, AreWidenedExactly) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<std::uint16_t> all(0x10000);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    if (is_reference()) all.erase(all.begin() + 0x100, all.end() - 0x100);
    std::vector<float> lse(all.size());
    GivenLogitsRequest request;
    request.logits = {all.data(), dtype, static_cast<std::int64_t>(all.size()), 1, 1};
    request.lse = lse.data();
    ASSERT_TRUE(score_logits(request, options()).has_value());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto value = static_cast<float>(oracle::decode(dtype, all.data(), i));
      const float right = std::isnan(value) ? oracle::quiet_nan() : value + 0.0F;
      ASSERT_EQ(oracle::bits_of(lse[i]), oracle::bits_of(right)) << dtype_name(dtype) << ' ' << all[i];
    }
  }
}

// A row stride of 0: one row that repeats.
TEST_P(GivenLogits, OfARowThatRepeats) {
  Given given = make_given({oracle::make_row(RowFamily::normal, 33, 1)});
  given.rows = 3;
  given.row_stride = 0;
  const std::vector<float> once = given.values;
  for (int i = 0; i < 2; ++i) given.values.insert(given.values.end(), once.begin(), once.end());
  given.temperatures = {1, 0.5F, 3};
  expect_right(given, "repeats");
}

TEST_P(GivenLogits, TemperatureIsOneDivisionBefore) {
  const std::int64_t vocab = is_reference() ? 16 : 200;
  std::vector<std::vector<float>> rows;
  std::vector<float> each;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    rows.push_back(oracle::make_row(RowFamily::normal, vocab, seed));
    each.push_back(0.3F + 0.37F * static_cast<float>(seed));
  }
  each[3] = 1;
  each[4] = 1e-30F;  // logits that overflow
  for (const DType dtype : {DType::bf16, DType::f32}) {
    Given given = make_given(rows, {dtype});
    given.draw_ids(1, 3);
    for (const std::vector<float>& temperatures : {std::vector<float>{0.7F}, std::vector<float>{1.0F}, each}) {
      given.temperatures = temperatures;
      expect_right(given, "temperatures");
    }
  }
}

// lse, and with it every logprob, next to a boundary between two f32 numbers.
TEST_P(GivenLogits, HardRows) {
  std::vector<std::vector<float>> rows;
  for (const float x : testing_score::hard_lse) rows.push_back({0, x});
  for (const float x : testing_score::hard_entropy) rows.push_back({0, x});
  Given given = make_given(rows);
  const Results found = score_given(given, options());
  expect_same(found, expected(given), "hard rows");
  EXPECT_GT(found.report.undecided_rows, 0);
}

// z - top is exactly between two f32 numbers, lse above top by less than f64 shows: the sign decides.
TEST_P(GivenLogits, MidpointsBelowACertainToken) {
  oracle::Random random(7);
  const std::int64_t vocab = is_reference() ? 24 : 400;
  std::int64_t midpoints = 0;
  std::vector<std::vector<float>> rows;
  for (const double gap : {36.0, 60.0, 120.0, 1200.0, 1e6}) {
    std::vector<float> z;
    const auto top = static_cast<float>(gap * (0.5 + random.uniform() / 8));
    for (std::int64_t v = 0; v < vocab; ++v) z.push_back(static_cast<float>(-gap * (0.5 + random.uniform() / 8)));
    z[random.below(z.size())] = top;
    for (const float x : z) midpoints += oracle::is_midpoint_gap(top, x) ? 1 : 0;
    rows.push_back(z);
  }
  EXPECT_GT(midpoints, vocab);
  expect_right(make_given(rows), "midpoints");
}

TEST_P(GivenLogits, GapsAndSizesOfEveryMagnitude) {
  const std::vector<std::vector<float>> rows = {
      {200, -(100 + 0x1p-16F), -infinity, 1e-30F},
      {1e6F, 0, -1e6F, -2e6F},
      {0x1p100F, 0x1p-100F, -0x1p100F, 0x1p100F},
      {0x1p-149F, 0, -0x1p-149F, -0.0F},
      {largest, -largest, 0, 1},
      {-largest, -largest, -infinity, -infinity},
      {0x1p20F, 0x1p20F - 0.0625F, 0, -infinity},
      {0x1.000002p20F, 0x1p20F, 0, 1},
      {-0x1p21F, -0x1.000002p21F, -0x1p22F, -infinity},
      {0, -87, -104, -149},
      {0, -700, -746, -1000},
      {0, -infinity, -infinity, -infinity},
      {20.5F, 1e-12F, -1e-20F, 3},
      {not_a_number, 1, infinity, -infinity},
      {infinity, infinity, 1, -infinity},
      {-infinity, -infinity, -infinity, -infinity},
      {5, 5, 5, 5},
  };
  expect_right(make_given(rows), "magnitudes");
}

TEST_P(GivenLogits, NearCertainTokensKeepTheirPrecision) {
  std::vector<std::vector<float>> rows;
  for (int digits = 1; digits <= 40; ++digits) {
    std::vector<float> z(20, 17.25F - 2.302585F * static_cast<float>(digits));
    z[static_cast<std::size_t>(digits % 20)] = 17.25F;
    rows.push_back(z);
  }
  const Given given = make_given(rows);
  const Results found = score_given(given, options());
  expect_same(found, expected(given), "near certain");
  for (std::size_t i = 0; i < 40; ++i) EXPECT_LT(found.log_softmax[i * 20 + (i + 1) % 20], 0.0F);
}

// A row of one special logit anywhere, among others that do not notice.
TEST_P(GivenLogits, OneSpecialLogitAnywhere) {
  for (const float special : {not_a_number, infinity, -infinity}) {
    for (const std::size_t place : {0U, 15U, 16U, 127U, 128U, 200U}) {
      std::vector<std::vector<float>> rows(3, std::vector<float>(201, 0.5F));
      if (is_reference()) rows.assign(3, std::vector<float>(place < 18 ? 18 : 201, 0.5F));
      if (place >= rows[0].size() || (is_reference() && place > 16)) continue;
      rows[1][place] = special;
      expect_right(make_given(rows), "special");
    }
  }
}

// A vocabulary of real size: rows as models make them, of which a log_softmax in f32 is wrong in most ids, and one in
// f64 rounded to f32 in some.
TEST_P(GivenLogits, OfAFullVocabulary) {
  const int vocab = is_reference() || instrumented ? 60 : 40000;
  oracle::Random random(11);
  std::vector<float> z;
  for (int v = 0; v < vocab; ++v) z.push_back(static_cast<float>(2.5 * random.normal()));
  std::vector<float> peaked = z;
  peaked[45] = 40;
  Given given = make_given({z, peaked});
  given.draw_ids(3, 1);
  expect_right(given, "full", 2);
}

ISOLOGIT_FOR_EACH_KERNEL(GivenLogits);

}  // namespace
}  // namespace isologit::testing_given
