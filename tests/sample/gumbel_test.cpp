// The pieces of a draw: bounds of Gumbel numbers, the filter of each instruction set, the search for contenders.
#include "sample/gumbel.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/target.hpp"
#include "oracle/cases.hpp"
#include "oracle/interval.hpp"
#include "oracle/sample.hpp"

namespace isologit::detail::sample {
namespace {

using kernels::Draw;
using kernels::Hit;
using kernels::kMostTile;

constexpr float infinity = std::numeric_limits<float>::infinity();

// -ln(-ln u) as an interval of 200 bits.
oracle::Interval gumbel(std::uint32_t first, std::uint32_t second) {
  mpz_class odd = first;
  odd <<= 32;
  odd += second;
  odd = 2 * odd + 1;
  mpq_class u(odd);
  mpq_div_2exp(u.get_mpq_t(), u.get_mpq_t(), 65);
  return -log(-log(oracle::Interval(u, 200)));
}

std::vector<std::uint32_t> interesting_words() {
  std::vector<std::uint32_t> words = {0, 1, 2, 0x7FFFFFFFU, 0x80000000U, 0xFFFFFFFFU, 0xFFFFFFFEU, 0x5E2D58D8U};
  oracle::Random random(5);
  for (int i = 0; i < 3000; ++i) words.push_back(static_cast<std::uint32_t>(random.next()) >> (i % 32));
  for (int i = 0; i < 1000; ++i) words.push_back(~(static_cast<std::uint32_t>(random.next()) >> (i % 32)));
  return words;
}

TEST(Gumbel, RangesHoldTheNumber) {
  constexpr std::uint32_t ones = 0xFFFFFFFFU;
  for (const std::uint32_t first : interesting_words()) {
    const GumbelRange range = gumbel_range(first);
    EXPECT_LE(mpfr_cmp_d(oracle::Real(gumbel(first, ones).hi).get(), range.high), 0) << first;
    EXPECT_GE(mpfr_cmp_d(oracle::Real(gumbel(first, 0).lo).get(), range.low), 0) << first;
    for (const std::uint32_t second : {0U, ones, 12345U * first}) {
      const oracle::Interval exact = gumbel(first, second);
      const GumbelRange both = gumbel_range(first, second);
      EXPECT_GE(mpfr_cmp_d(exact.lo.get(), both.low), 0) << first << ' ' << second;
      EXPECT_LE(mpfr_cmp_d(exact.hi.get(), both.high), 0) << first << ' ' << second;
      EXPECT_LE(both.high - both.low, 0x1p-40);
    }
  }
}

class Tables : public testing::TestWithParam<const kernels::Target*> {
 protected:
  const kernels::FoldLoops& loops() const { return GetParam()->fold_loops(); }
};

TEST_P(Tables, WordsAreTheGenerators) {
  const std::vector<float> logits(128, 1.0F);
  for (const std::int64_t first_id : {std::int64_t{0}, std::int64_t{1}, std::int64_t{127}, std::int64_t{4098},
                                      (std::int64_t{1} << 32) - 5, (std::int64_t{1} << 33) - 128}) {
    const Draw draw{0x299F31D0A4093822U + static_cast<std::uint64_t>(first_id), 0x0370734413198A2EU, 0x85A308D3U};
    Hit hits[kMostTile];
    ASSERT_EQ(loops().gumbel_hits(draw, logits.data(), first_id, 128, -infinity, 0, hits), 128);
    for (std::int64_t i = 0; i < 128; ++i) {
      const auto id = static_cast<std::uint64_t>(first_id + i);
      const std::array<std::uint32_t, 4> block =
          oracle::philox4x32({static_cast<std::uint32_t>(id / 4), draw.position, 0x13198A2EU, 0x03707344U},
                             {static_cast<std::uint32_t>(draw.seed), static_cast<std::uint32_t>(draw.seed >> 32)});
      EXPECT_EQ(hits[i].index, i);
      EXPECT_EQ(hits[i].word, block[id % 4]) << id;
    }
  }
}

TEST_P(Tables, NoContenderIsLeftOut) {
  oracle::Random random(9);
  std::int64_t written = 0;
  for (std::uint64_t trial = 0; trial < 3000; ++trial) {
    const float size = std::ldexp(1.0F, static_cast<int>(trial % 40) - 4);
    std::vector<float> logits(112, -infinity);
    constexpr std::int64_t count = 101;
    for (std::size_t j = 0; j < count; ++j) logits[j] = size * static_cast<float>(random.normal());
    logits[7] = -infinity;
    logits[8] = std::numeric_limits<float>::quiet_NaN();
    const Draw draw{trial, 1, 2};
    const float rival = size * static_cast<float>(random.normal());
    const auto gumbel = static_cast<float>(random.between(-40, 240)) / 16;
    Hit hits[kMostTile];
    const std::int64_t found = loops().gumbel_hits(draw, logits.data(), 4000, count, rival, gumbel, hits);
    written += found;
    std::vector<char> hit(count);
    for (std::int64_t i = 0; i < found; ++i) hit[static_cast<std::size_t>(hits[i].index)] = 1;
    EXPECT_EQ(hit[7], 0);
    EXPECT_EQ(hit[8], 0);
    for (std::size_t j = 0; j < count; ++j) {
      if (!(logits[j] > -infinity) || hit[j] != 0) continue;
      const double high =
          gumbel_range(kernels::draw_word(draw, 4000 + static_cast<std::int64_t>(j), kernels::Word::first)).high;
      EXPECT_LT(static_cast<double>(logits[j]) - static_cast<double>(rival) + high, static_cast<double>(gumbel));
    }
  }
  EXPECT_GT(written, 0);
  if (GetParam()->name() != "reference") {
    EXPECT_LT(written, 3000 * 99 / 2);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Tables, testing::ValuesIn([] {
                           std::vector<const kernels::Target*> runnable;
                           for (const kernels::Entry& entry : kernels::registry()) {
                             if (entry.why_not().empty()) runnable.push_back(&entry.target());
                           }
                           return runnable;
                         }()),
                         [](const auto& one) { return std::string(one.param->name()); });

// More contenders than a list holds: logits that undo the Gumbel numbers as well as f32 can.
TEST(Contenders, ManyCloseOnes) {
  const Draw draw{1, 2, 3};
  std::vector<float> z;
  for (std::uint32_t v = 0; v < 3000; ++v) {
    z.push_back(static_cast<float>(-gumbel_range(kernels::draw_word(draw, v, kernels::Word::first)).low));
  }
  Contenders all(draw);
  Contenders parts[2] = {Contenders(draw), Contenders(draw)};
  for (std::uint32_t v = 0; v < 3000; ++v) {
    all.offer(z[v], v);
    parts[v * 7 % 2].offer(z[2999 - v], 2999 - v);
  }
  parts[0].merge(parts[1]);
  const std::int64_t expected = oracle::sample(z, {}, {}, {1, 2, 3}).id;
  EXPECT_EQ(all.pick().id, expected);
  EXPECT_EQ(parts[0].pick().id, expected);
}

}  // namespace
}  // namespace isologit::detail::sample
