// Philox against its published vectors, cuts against hand-worked boundaries, draws against their distribution.
#include "oracle/sample.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
using Block = std::array<std::uint32_t, 4>;
using Mask = std::vector<std::uint8_t>;

// The known-answer vectors of Random123 for philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627E8D5U, 0xE169C58DU, 0xBC57AC4CU, 0x9B00DBD8U}));
  constexpr std::uint32_t ones = 0xFFFFFFFFU;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408F276DU, 0x41C83B0EU, 0xA20BC7C6U, 0x6D5451FDU}));
  EXPECT_EQ(philox4x32({0x243F6A88U, 0x85A308D3U, 0x13198A2EU, 0x03707344U}, {0xA4093822U, 0x299F31D0U}),
            (Block{0xD16CFE09U, 0x94FDCCEBU, 0x5001E420U, 0x24126EA1U}));
}

TEST(Philox, WordsOfATokenComeFromItsCounter) {
  // Token 2 is word 2 of the first block, the known answer for zeros.
  EXPECT_EQ(words_of({0, 0, 0}, 2).r1, 0xBC57AC4CU);
  EXPECT_EQ(words_of({0, 0, 0}, 2).r2, philox4x32({0x80000000U, 0, 0, 0}, {0, 0})[2]);
  const DrawKey key{0x299F31D0A4093822U, 0x0370734413198A2EU, 0x85A308D3U};
  EXPECT_EQ(words_of(key, 4 * 1000 + 3).r1,
            philox4x32({1000, 0x85A308D3U, 0x13198A2EU, 0x03707344U}, {0xA4093822U, 0x299F31D0U})[3]);
  EXPECT_EQ(words_of(key, 4 * 1000 + 1).r2,
            philox4x32({0x800003E8U, 0x85A308D3U, 0x13198A2EU, 0x03707344U}, {0xA4093822U, 0x299F31D0U})[1]);
}

TEST(Cuts, MinP) {
  const float ln2 = 0.693147182464599609375F;  // the f32 number next above ln 2 = 0.69314718055994530...
  const std::vector<float> z{0.0F, -ln2, -std::nextafter(ln2, 0.0F), -5.0F, -infinity};
  EXPECT_EQ(cut_support(z, {}, {0.5F, 0, 1.0F}), (Mask{1, 0, 1, 0, 0}));
  EXPECT_EQ(cut_support(z, {}, {1.0F, 0, 1.0F}), (Mask{1, 0, 0, 0, 0}));
  EXPECT_EQ(cut_support(z, {}, {0x1p-149F, 0, 1.0F}), (Mask{1, 1, 1, 1, 0}));
  const std::vector<float> ties{3.0F, 3.0F, 2.0F};
  EXPECT_EQ(cut_support(ties, {}, {1.0F, 0, 1.0F}), (Mask{1, 1, 0}));
}

TEST(Cuts, TopK) {
  const std::vector<float> z{1.0F, 2.0F, 2.0F, 2.0F, 5.0F};
  EXPECT_EQ(cut_support(z, {}, {0.0F, 3, 1.0F}), (Mask{0, 1, 1, 0, 1}));  // ties by ascending id
  EXPECT_EQ(cut_support(z, Mask{1, 0, 1, 1, 0}, {0.0F, 1, 1.0F}), (Mask{0, 0, 1, 0, 0}));
  EXPECT_EQ(cut_support(z, {}, {0.0F, 9, 1.0F}), (Mask{1, 1, 1, 1, 1}));
}

TEST(Cuts, TopP) {
  const std::vector<float> equal(4, 2.0F);
  EXPECT_EQ(cut_support(equal, {}, {0.0F, 0, 0.5F}), (Mask{1, 1, 0, 0}));  // exactly half
  EXPECT_EQ(cut_support(equal, {}, {0.0F, 0, std::nextafter(0.5F, 1.0F)}), (Mask{1, 1, 1, 0}));
  EXPECT_EQ(cut_support(equal, {}, {0.0F, 0, std::nextafter(0.5F, 0.0F)}), (Mask{1, 1, 0, 0}));
  EXPECT_EQ(cut_support(equal, {}, {0.0F, 0, 0x1p-149F}), (Mask{1, 0, 0, 0}));

  // p = 1 / (1 + e^-1) = 0.73105857863000487..., between two f32 numbers.
  const std::vector<float> two{0.0F, -1.0F};
  const auto nearest = static_cast<float>(0.73105857863000487);
  const bool nearest_below = static_cast<double>(nearest) < 0.73105857863000487;
  const float below = nearest_below ? nearest : std::nextafter(nearest, 0.0F);
  EXPECT_EQ(cut_support(two, {}, {0.0F, 0, below}), (Mask{1, 0}));
  EXPECT_EQ(cut_support(two, {}, {0.0F, 0, std::nextafter(below, 1.0F)}), (Mask{1, 1}));

  const float almost = 1.0F - 0x1p-24F;
  EXPECT_EQ(cut_support(std::vector<float>{0.0F, -17.0F}, {}, {0.0F, 0, almost}), (Mask{1, 0}));  // e^-17 < 2^-24
  EXPECT_EQ(cut_support(std::vector<float>{0.0F, -16.0F}, {}, {0.0F, 0, almost}), (Mask{1, 1}));
  EXPECT_EQ(cut_support(std::vector<float>{0.0F, -1e30F, -infinity}, {}, {0.0F, 0, 1.0F}), (Mask{1, 1, 0}));
}

TEST(Cuts, ActInOrderEachOnWhatIsLeft) {
  // Masses proportional to about 8, 4, 2, 1. top-p 0.6 of all keeps two; of the best two alone (12) it keeps one.
  const float ln2 = 0.6931472F;
  const std::vector<float> z{0.0F, -ln2, -2 * ln2, -3 * ln2};
  EXPECT_EQ(cut_support(z, {}, {0.0F, 0, 0.6F}), (Mask{1, 1, 0, 0}));
  EXPECT_EQ(cut_support(z, {}, {0.0F, 2, 0.6F}), (Mask{1, 0, 0, 0}));
  EXPECT_EQ(cut_support(z, {}, {0.3F, 0, 0.6F}), (Mask{1, 0, 0, 0}));
}

// The draw, told again in double: z - log(-log u) with 64-bit u.
TEST(Sample, AgreesWithPlainDoubleAwayFromTies) {
  int compared = 0;
  for (std::uint64_t i = 0; i < 600; ++i) {
    const std::vector<float> z = make_row(RowFamily::normal, 20, i % 5);
    const DrawKey key{i * 7919, i << 20, static_cast<std::uint32_t>(i)};
    double best = -1e300, second = -1e300;
    std::int64_t id = -1;
    for (std::uint32_t v = 0; v < 20; ++v) {
      const Words words = words_of(key, v);
      const double u = (static_cast<double>(words.r1) + static_cast<double>(words.r2) * 0x1p-32) * 0x1p-32;
      const double value = static_cast<double>(z[v]) - std::log(-std::log(u));
      if (value > best) {
        second = best;
        best = value;
        id = v;
      } else {
        second = std::max(second, value);
      }
    }
    if (best - second < 1e-6) continue;
    ++compared;
    ASSERT_EQ(sample(z, {}, {}, key).id, id);
  }
  EXPECT_GT(compared, 590);
}

TEST(Sample, FrequenciesAreTheProbabilities) {
  const std::vector<float> z{0.0F, 1.0F, 2.0F, -infinity, -1.0F};
  const Row row(z);
  constexpr int draws = 4000;
  std::array<int, 5> counts{};
  for (int i = 0; i < draws; ++i)
    ++counts[static_cast<std::size_t>(sample(z, {}, {}, {42, 7, static_cast<std::uint32_t>(i)}).id)];
  EXPECT_EQ(counts[3], 0);
  double chi_squared = 0;
  for (const std::size_t v : {0U, 1U, 2U, 4U}) {
    const double expected = draws * std::exp(static_cast<double>(row.logprob(static_cast<std::int64_t>(v))));
    chi_squared += (counts[v] - expected) * (counts[v] - expected) / expected;
  }
  EXPECT_LT(chi_squared, 16.27);  // 0.999 of three degrees of freedom; the draws are fixed, so it holds or not
}

TEST(Sample, LogprobsOverSupportAndCut) {
  const std::vector<float> z = make_row(RowFamily::normal, 64, 2);
  Mask mask(64, 1);
  for (std::size_t v = 0; v < 64; v += 3) mask[v] = 0;
  const Row row(z, mask);
  for (std::uint32_t i = 0; i < 50; ++i) {
    const Sample one = sample(z, mask, {0.0F, 1, 1.0F}, {1, 2, i});
    EXPECT_EQ(one.id, row.argmax());
    EXPECT_EQ(bits_of(one.logprob_cut), 0U);
    EXPECT_EQ(one.log_kept_cut, one.logprob);
    const Sample some = sample(z, mask, {0.0F, 20, 0.8F}, {1, 2, i});
    EXPECT_TRUE(row.in_support(some.id));
    EXPECT_EQ(some.logprob, row.logprob(some.id));
    EXPECT_LT(some.log_kept_cut, 0.0F);
    EXPECT_GE(some.log_kept_cut, std::log(0.8F));
    EXPECT_NEAR(some.logprob, some.logprob_cut + some.log_kept_cut, 1e-6);
    const Sample all = sample(z, mask, {}, {1, 2, i});
    EXPECT_EQ(bits_of(all.log_kept_cut), 0U);
    EXPECT_EQ(all.logprob, all.logprob_cut);
  }
}

TEST(Sample, GreedyAndSpecialRows) {
  const std::vector<float> z{1.0F, 4.0F, 4.0F};
  EXPECT_EQ(sample_greedy(z, {}).id, 1);
  EXPECT_EQ(sample_greedy(z, {}).logprob, Row(z).logprob(1));
  EXPECT_EQ(bits_of(sample_greedy(z, {}).log_kept_cut), 0U);
  const std::vector<float> with_nan{1.0F, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(sample(with_nan, {}, {}, {}).id, 1);
  EXPECT_EQ(bits_of(sample(with_nan, {}, {}, {}).logprob), 0x7FC00000U);
  const std::vector<float> none(3, -infinity);
  EXPECT_EQ(sample(none, {}, {}, {}).id, -1);
  // What is masked out makes no row special, and an empty support leaves nothing.
  EXPECT_EQ(sample(with_nan, Mask{1, 0}, {}, {}).id, 0);
  EXPECT_EQ(bits_of(sample(with_nan, Mask{1, 0}, {}, {}).logprob), 0U);
  EXPECT_EQ(sample_greedy(z, Mask{1, 0, 1}).id, 2);
  EXPECT_EQ(sample(z, Mask{0, 0, 0}, {}, {}).id, -1);
  EXPECT_EQ(bits_of(sample(z, Mask{0, 0, 0}, {}, {}).log_kept_cut), 0x7FC00000U);
}

}  // namespace
}  // namespace isologit::oracle
