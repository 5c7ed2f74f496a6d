// Against mpmath, hand-worked midpoints, and identities that hold bit for bit.
#include "oracle/distribution.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "oracle/cases.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// A whole row at 4000 bits in mpmath: S = fsum(exp(z)), p = exp(z) / S; lse = log(S), entropy = -fsum(p log(p)),
// sum_p2 = fsum(p p), logprobs = log(p), kept = log(fsum(p without the first, or without the last)). Each was rounded
// to binary32 in fractions.Fraction.
struct RowFact {
  std::vector<float> z;
  std::uint32_t lse, entropy, sum_p2;
  std::vector<std::uint32_t> logprobs;
  std::uint32_t without_first, without_last;
};

TEST(Distribution, MatchesMpmath) {
  const RowFact facts[] = {
      {{1.0F, 2.0F, 3.0F},
       0x405A1637U,
       0x3F5517E0U,
       0x3F02B2F3U,
       {0xC01A1637U, 0xBFB42C6FU, 0xBED0B1BBU},
       0xBDC13792U,
       0xBF8C1379U},
      {{0.5F, -0.25F, 7.125F, -3.0F, 7.0F},
       0x40F846ECU,
       0x3F33142EU,
       0x3F003A25U,
       {0xC0E846ECU, 0xC1002376U, 0xBF223760U, 0xC12C2376U, 0xBF423760U},
       0xBA38A0D0U,
       0xBF21B4DBU},
      {{20.0F, -20.0F, 0.0F, 19.5F},
       0x41A3CAE9U,
       0x3F29B05DU,
       0x3F07AD98U,
       {0xBEF2BA38U, 0xC221E574U, 0xC1A3CAE9U, 0xBF795D1CU},
       0xBF795D1CU,
       0xBEF2BA38U},
      {{-1000.5F, -1001.25F, -1020.0F},
       0xC47A073EU,
       0x3F20A2FDU,
       0x3F107011U,
       {0xBEC613F5U, 0xBF9184FDU, 0xC19F1850U},
       0xBF9184FDU,
       0xB11E9B50U},
      {{0.0F, -88.0F, -103.0F, -104.0F},
       0x0041EDC6U,
       0x03375D50U,
       0x3F800000U,
       {0x8041EDC6U, 0xC2B00000U, 0xC2CE0000U, 0xC2D00000U},
       0xC2B00000U,
       0x00000000U},
      {{0.0F, -40.0F, -60.0F},
       0x229CBC92U,
       0x2548D19BU,
       0x3F800000U,
       {0xA29CBC92U, 0xC2200000U, 0xC2700000U},
       0xC2200000U,
       0x942D70C9U},
  };
  for (const RowFact& fact : facts) {
    const Row row(fact.z);
    EXPECT_EQ(bits_of(row.lse()), fact.lse);
    EXPECT_EQ(bits_of(row.entropy()), fact.entropy);
    EXPECT_EQ(bits_of(row.sum_p2()), fact.sum_p2);
    for (std::size_t v = 0; v < fact.z.size(); ++v) {
      EXPECT_EQ(bits_of(row.logprob(static_cast<std::int64_t>(v))), fact.logprobs[v]);
    }
    std::vector<std::uint8_t> mask(fact.z.size(), 1);
    mask.front() = 0;
    EXPECT_EQ(bits_of(Row(fact.z, mask).log_kept()), fact.without_first);
    mask.front() = 1;
    mask.back() = 0;
    EXPECT_EQ(bits_of(Row(fact.z, mask).log_kept()), fact.without_last);
  }
}

// z = {0, -g} with g = float(k ln 10), k = 1 to 30, from the same program.
struct CertainFact {
  std::uint32_t g, logprob, entropy, sum_p2;
};

TEST(Distribution, NearCertainTokensMatchMpmath) {
  const CertainFact facts[] = {
      {0x40135D8EU, 0xBDC331FBU, 0x3E9BF943U, 0x3F55AF9BU}, {0x40935D8EU, 0xBC2306B6U, 0x3D638447U, 0x3F7AFB1BU},
      {0x40DD0C55U, 0xBA8301AAU, 0x3C01707DU, 0x3F7F7D31U}, {0x41135D8EU, 0xB8D1B466U, 0x3A85D0F5U, 0x3F7FF2E5U},
      {0x413834F1U, 0xB727C579U, 0x390334D1U, 0x3F7FFEB0U}, {0x415D0C55U, 0xB58637B7U, 0x3778900FU, 0x3F7FFFDEU},
      {0x4180F1DCU, 0xB3D6BF98U, 0x35E5C156U, 0x3F7FFFFDU}, {0x41935D8EU, 0xB22BCC74U, 0x34508726U, 0x3F800000U},
      {0x41A5C940U, 0xB0897058U, 0x32BA99EFU, 0x3F800000U}, {0x41B834F1U, 0xAEDBE708U, 0x31251AC0U, 0x3F800000U},
      {0x41CAA0A3U, 0xAD2FEC00U, 0x2F90BDFCU, 0x3F800000U}, {0x41DD0C55U, 0xAB8CBCC8U, 0x2DFBD74EU, 0x3F800000U},
      {0x41EF7807U, 0xA9E12E06U, 0x2C59ACFCU, 0x3F800000U}, {0x4200F1DCU, 0xA83424E2U, 0x2ABB1A6CU, 0x3F800000U},
      {0x420A27B5U, 0xA6901D7DU, 0x29200D6BU, 0x3F800000U}, {0x42135D8EU, 0xA4E6958DU, 0x2788567AU, 0x3F800000U},
      {0x421C9367U, 0xA338779EU, 0x25E769F3U, 0x3F800000U}, {0x4225C940U, 0xA19392E0U, 0x2443BFF2U, 0x3F800000U},
      {0x422EFF18U, 0x9FEC1E66U, 0x22A5186BU, 0x3F800000U}, {0x423834F1U, 0x9E3CE518U, 0x210ADF4EU, 0x3F800000U},
      {0x42416ACAU, 0x9C971DA8U, 0x1F6911B7U, 0x3F800000U}, {0x424AA0A3U, 0x9AF1C904U, 0x1DC32779U, 0x3F800000U},
      {0x4253D67CU, 0x99416D97U, 0x1C231519U, 0x3F800000U}, {0x425D0C55U, 0x979ABE0DU, 0x1A88087EU, 0x3F800000U},
      {0x4266422EU, 0x95F79673U, 0x18E28F86U, 0x3F800000U}, {0x426F7807U, 0x944611EFU, 0x173C5FE4U, 0x3F800000U},
      {0x4278ADDFU, 0x929E74E2U, 0x159C66ADU, 0x3F800000U}, {0x4280F1DCU, 0x90FD87C7U, 0x1401AE7AU, 0x3F800000U},
      {0x42858CC9U, 0x8F4AD2CCU, 0x1256C968U, 0x3F800000U}, {0x428A27B5U, 0x8DA24260U, 0x10B1AAEFU, 0x3F800000U},
  };
  for (const auto& [g, logprob, entropy, sum_p2] : facts) {
    const std::vector<float> z{0.0F, -float_of(g)};
    const Row row(z);
    EXPECT_EQ(bits_of(row.logprob(0)), logprob);
    EXPECT_EQ(bits_of(row.entropy()), entropy);
    EXPECT_EQ(bits_of(row.sum_p2()), sum_p2);
    EXPECT_EQ(bits_of(row.lse()), logprob ^ 0x80000000U);  // top is 0
    EXPECT_LT(row.logprob(0), 0.0F);
  }
}

// top - z is a midpoint and the other mass, however small, pushes the logprob away from 0: to the greater magnitude,
// whether or not that one is even.
TEST(Distribution, MidpointGapsGoAwayFromZero) {
  const std::vector<float> known{200.0F, -(100.0F + 0x1p-16F)};
  EXPECT_EQ(Row(known).logprob(1), -(300.0F + 0x1p-15F));
  EXPECT_EQ(Row(known).logprob(0), 0.0F);
  EXPECT_EQ(Row(known).lse(), 200.0F);
  const std::vector<std::uint8_t> only_second{0, 1};
  EXPECT_EQ(Row(known, only_second).log_kept(), -(300.0F + 0x1p-15F));
  EXPECT_EQ(Row(known, only_second).logprob(1), 0.0F);
  EXPECT_EQ(Row(known, only_second).lse(), known[1]);

  int even_toward_zero = 0;
  for (std::uint64_t seed = 0; seed < 440; ++seed) {
    const std::vector<float> z = make_row(RowFamily::midpoint_gap, 9, seed);
    if (!is_midpoint_gap(z.front(), z.back()) || z.front() - z.back() < 20) continue;
    const double gap = static_cast<double>(z.front()) - static_cast<double>(z.back());
    float away = static_cast<float>(gap);  // ties to even
    if (static_cast<double>(away) < gap) {
      away = std::nextafter(away, infinity);
      ++even_toward_zero;
    }
    ASSERT_EQ(Row(z).logprob(8), -away) << seed;
  }
  EXPECT_GT(even_toward_zero, 50);
}

TEST(Distribution, HugeGaps) {
  const std::vector<float> wide{0.0F, -1e6F, -1e6F};
  EXPECT_EQ(Row(wide).logprob(1), -1e6F);
  EXPECT_EQ(Row(wide).entropy(), 0.0F);
  EXPECT_EQ(Row(wide).sum_p2(), 1.0F);
  const std::vector<float> widest{largest, -largest, 0.0F, -0x1p103F, -0x1.fffffep102F};
  const Row row(widest);
  EXPECT_EQ(row.lse(), largest);
  EXPECT_EQ(bits_of(row.logprob(0)), 0U);
  EXPECT_EQ(row.logprob(1), -infinity);  // rounds past the range; p is not 0
  EXPECT_EQ(row.logprob(2), -largest);
  EXPECT_EQ(row.logprob(3), -infinity);  // the tie at 2^128 - 2^103
  EXPECT_EQ(row.logprob(4), -largest);
  EXPECT_EQ(bits_of(row.entropy()), 0U);
  // lse pushed off no midpoint: top is an f32 number, and half an ulp is far.
  const std::vector<float> apart{0x1p100F, 0x1p-100F};
  EXPECT_EQ(Row(apart).lse(), 0x1p100F);
  EXPECT_EQ(Row(apart).logprob(1), -0x1p100F);
}

TEST(Distribution, ExactCases) {
  const std::vector<float> alone{-3.25F};
  EXPECT_EQ(Row(alone).lse(), -3.25F);
  EXPECT_EQ(bits_of(Row(alone).logprob(0)), 0U);
  EXPECT_EQ(bits_of(Row(alone).entropy()), 0U);
  EXPECT_EQ(Row(alone).sum_p2(), 1.0F);
  EXPECT_EQ(bits_of(Row(alone).log_kept()), 0U);
  const std::vector<float> minus_zero{-0.0F};
  EXPECT_EQ(bits_of(Row(minus_zero).lse()), 0U);

  const std::vector<float> one_finite{-infinity, 7.5F, -infinity};
  EXPECT_EQ(Row(one_finite).lse(), 7.5F);
  EXPECT_EQ(bits_of(Row(one_finite).logprob(1)), 0U);
  EXPECT_EQ(Row(one_finite).logprob(0), -infinity);
  EXPECT_EQ(bits_of(Row(one_finite).entropy()), 0U);
  const std::vector<std::uint8_t> mask{0, 1, 1};
  EXPECT_EQ(bits_of(Row(one_finite, mask).log_kept()), 0U);  // nothing with mass is dropped

  for (const std::size_t count : {2U, 3U, 7U, 1000U}) {
    const std::vector<float> equal(count, -1.5F);
    const double ln = std::log(static_cast<double>(count));  // within 2^-50: far from a midpoint for these counts
    EXPECT_EQ(Row(equal).entropy(), static_cast<float>(ln));
    EXPECT_EQ(Row(equal).logprob(1), -static_cast<float>(ln));
    EXPECT_EQ(Row(equal).lse(), static_cast<float>(ln - 1.5));
    EXPECT_EQ(Row(equal).sum_p2(), 1.0F / static_cast<float>(count));
  }
}

// m is a midpoint. Below the kept top there is a gap g, below the row's top there are g and 2g: e^-g cancels, and
// -e^-2g, about 2^-433, decides.
TEST(Distribution, LogKeptWithCancellingTails) {
  const std::vector<float> z{210.0F, 60.0F + 0x1p-17F, -90.0F + 0x1p-16F};
  ASSERT_EQ(gap_between(z[0], z[1]), gap_between(z[1], z[2]));
  ASSERT_TRUE(is_midpoint_gap(z[0], z[1]));
  const std::vector<std::uint8_t> mask{0, 1, 1};
  EXPECT_EQ(Row(z, mask).log_kept(), -150.0F);

  // Here the kept tail is the greater one: e^-150000 against e^-330000, and the midpoint goes towards 0.
  const std::vector<float> far{440000.0F, 110000.0F + 0x1p-6F, -40000.0F};
  ASSERT_TRUE(is_midpoint_gap(far[0], far[1]));
  const std::vector<std::uint8_t> without_first{0, 1, 1};
  EXPECT_EQ(Row(far, without_first).log_kept(), -330000.0F + 0x1p-5F);
  const std::vector<std::uint8_t> second_only{0, 1, 0};
  EXPECT_EQ(Row(far, second_only).log_kept(), -330000.0F);
}

// A gap that no double holds: 1 - 2^-70 or 1 + 2^-70. The sums must enclose the truth, which is within 2^-120.
TEST(Distribution, GapsWiderThanADoubleCountInFull) {
  for (const float low : {0x1p-70F, -0x1p-70F}) {
    const std::vector<float> z{1.0F, low};
    const mpq_class d = mpq_class(1) - mpq_class(low);
    ASSERT_NE(gap_between(1.0F, low).lo, 0.0);
    ASSERT_EQ(rational(gap_between(1.0F, low)), d);
    const Interval gap(d, 400);
    const Interval truth = gap * exp(-gap);
    const Row row(z);
    const Interval& moment = row.tail(128).moment;
    EXPECT_LE(mpfr_cmp(moment.lo.get(), truth.lo.get()), 0);
    EXPECT_GE(mpfr_cmp(moment.hi.get(), truth.hi.get()), 0);
    EXPECT_LE(mpfr_get_exp((moment - truth).hi.get()), -118);
  }
}

TEST(Distribution, LogKeptOfOneIdIsItsLogprob) {
  for (const RowFamily family : row_families) {
    for (std::uint64_t seed = 0; seed < 11; ++seed) {
      const std::vector<float> z = make_row(family, 33, seed);
      const Row row(z);
      if (row.kind() != RowKind::ordinary) continue;
      for (std::int64_t t = 0; t < 33; t += 4) {
        if (z[static_cast<std::size_t>(t)] == -infinity) continue;
        std::vector<std::uint8_t> mask(33, 0);
        mask[static_cast<std::size_t>(t)] = 1;
        ASSERT_EQ(bits_of(Row(z, mask).log_kept()), bits_of(row.logprob(t))) << name_of(family) << seed << ' ' << t;
      }
    }
  }
}

TEST(Distribution, PermutingPaddingAndShiftingChangeNothing) {
  for (const RowFamily family : row_families) {
    for (std::uint64_t seed = 0; seed < 11; ++seed) {
      const std::vector<float> z = make_row(family, 41, seed);
      std::vector<float> other(z.rbegin(), z.rend());
      other.insert(other.begin() + 20, 5, -infinity);
      const Row a(z);
      const Row b(other);
      ASSERT_EQ(bits_of(a.lse()), bits_of(b.lse()));
      ASSERT_EQ(bits_of(a.entropy()), bits_of(b.entropy()));
      ASSERT_EQ(bits_of(a.sum_p2()), bits_of(b.sum_p2()));
      ASSERT_EQ(bits_of(a.logprob(0)), bits_of(b.logprob(45)));
      ASSERT_EQ(a.rank(0) <= 0, b.rank(45) <= 0);
    }
  }
  // Multiples of 2^-6 below 2^7 move by 512 exactly.
  Random random(5);
  std::vector<float> z(50);
  for (float& x : z) x = static_cast<float>(std::ldexp(static_cast<double>(random.between(-2000, 2000)), -6));
  std::vector<float> moved(z);
  for (float& x : moved) x += 512.0F;
  for (std::int64_t t = 0; t < 50; ++t) EXPECT_EQ(Row(z).logprob(t), Row(moved).logprob(t));
}

// The definitions of section 3 as they stand, with no care at all but 2500 bits.
struct Naive {
  Interval lse, entropy, sum_p2;
  std::vector<Interval> logprobs;
};

Naive naive(const std::vector<float>& z) {
  constexpr mpfr_prec_t bits = 2500;  // gaps up to 1000 are 1443 binary places

  Interval mass(bits);
  for (const float x : z) mass = mass + (x == -infinity ? Interval(bits) : exp(Interval(mpq_class(x), bits)));
  Naive result{log(mass), Interval(bits), Interval(bits), {}};
  for (const float x : z) {
    result.logprobs.push_back(Interval(x == -infinity ? mpq_class(0) : mpq_class(x), bits) - result.lse);
    if (x == -infinity) continue;
    const Interval p = exp(result.logprobs.back());
    result.entropy = result.entropy - p * result.logprobs.back();
    result.sum_p2 = result.sum_p2 + p * p;
  }
  return result;
}

TEST(Distribution, MatchesTheDefinitionsAtGreatPrecision) {
  int compared = 0;
  const auto expect = [&](float ours, const Interval& theirs, std::string_view family, std::uint64_t seed) {
    const auto rounded = round_sum(0, theirs, 0);
    if (!rounded) return;  // an exact 0 or 1, which no precision settles this way
    ++compared;
    ASSERT_EQ(ours, static_cast<float>(*rounded)) << family << ' ' << seed;
  };
  for (const RowFamily family : row_families) {
    for (std::uint64_t seed = 0; seed < 22; ++seed) {
      std::vector<float> z = make_row(family, 9, seed);
      const Row row(z);
      if (row.kind() != RowKind::ordinary || std::fabs(row.top()) > 1e6F) continue;  // e^(2^100) is past any format
      for (float& x : z) {
        if (x < row.top() - 1000.0F) x = -infinity;  // what 2500 bits cannot carry has tests of its own
      }
      const Row near(z);
      const Naive wide = naive(z);
      expect(near.lse(), wide.lse, name_of(family), seed);
      expect(near.entropy(), wide.entropy, name_of(family), seed);
      expect(near.sum_p2(), wide.sum_p2, name_of(family), seed);
      for (std::size_t v = 0; v < z.size(); ++v) {
        if (z[v] == -infinity) continue;
        expect(near.logprob(static_cast<std::int64_t>(v)), wide.logprobs[v], name_of(family), seed);
      }
      std::vector<std::uint8_t> mask(9, 1);
      std::vector<float> kept = z;
      for (std::size_t v = seed % 3; v < 9; v += 2) {
        mask[v] = 0;
        kept[v] = -infinity;
      }
      if (Row(kept).kind() != RowKind::ordinary) continue;
      expect(Row(z, mask).log_kept(), naive(kept).lse - wide.lse, name_of(family), seed);
    }
  }
  EXPECT_GT(compared, 1500);
}

// Far from a midpoint, plain double gives the same f32; it may differ by one ulp where it does not.
TEST(Distribution, IsNearPlainDouble) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const std::vector<float> z = make_row(RowFamily::normal, 300, seed);
    double top = -1e300, sum = 0, moment = 0;
    for (const float x : z) top = std::max(top, static_cast<double>(x));
    for (const float x : z) {
      const double e = std::exp(static_cast<double>(x) - top);
      sum += e;
      moment += e * (top - static_cast<double>(x));
    }
    const Row row(z);
    EXPECT_FLOAT_EQ(row.lse(), static_cast<float>(top + std::log(sum)));
    EXPECT_NEAR(row.entropy(), std::log(sum) + moment / sum, 1e-6 * (1 + std::log(sum)));
    EXPECT_FLOAT_EQ(row.logprob(3), static_cast<float>(static_cast<double>(z[3]) - top - std::log(sum)));
  }
}

TEST(Distribution, OrderRankAndTopK) {
  const std::vector<float> z{1.0F, 3.0F, -infinity, 3.0F, 0.0F, -0.0F};
  const Row row(z);
  EXPECT_EQ(row.top_k(8), (std::vector<std::int64_t>{1, 3, 0, 4, 5, 2, -1, -1}));
  EXPECT_EQ(row.argmax(), 1);
  EXPECT_EQ(row.rank(3), 2);
  EXPECT_EQ(row.rank(5), 5);
  EXPECT_EQ(row.rank(2), 6);
  const std::vector<std::uint8_t> mask{1, 0, 1, 1, 0, 1};
  const Row masked(z, mask);
  EXPECT_EQ(masked.top_k(5), (std::vector<std::int64_t>{3, 0, 5, 2, -1}));
  EXPECT_EQ(masked.rank(1), 0);
  EXPECT_EQ(masked.logprob(1), -infinity);
  EXPECT_EQ(masked.rank(0), 2);
}

TEST(Distribution, SpecialRows) {
  const std::vector<float> with_nan{1.0F, nan, infinity, nan};
  const Row a(with_nan);
  for (const float x : {a.lse(), a.logprob(0), a.entropy(), a.sum_p2(), a.log_kept()}) {
    EXPECT_EQ(bits_of(x), 0x7FC00000U);
  }
  EXPECT_EQ(a.top_k(4), (std::vector<std::int64_t>{1, 3, 2, 0}));
  EXPECT_EQ(a.argmax(), 1);
  EXPECT_EQ(a.rank(0), 0);

  const std::vector<float> none{-infinity, -infinity};
  const Row b(none);
  EXPECT_EQ(b.lse(), -infinity);
  for (const float x : {b.logprob(0), b.entropy(), b.sum_p2(), b.log_kept()}) EXPECT_EQ(bits_of(x), 0x7FC00000U);
  EXPECT_EQ(b.top_k(2), (std::vector<std::int64_t>{-1, -1}));
  EXPECT_EQ(b.argmax(), -1);
  EXPECT_EQ(b.rank(0), -1);

  const std::vector<float> with_inf{1.0F, infinity, -infinity, infinity};
  const Row c(with_inf);
  EXPECT_EQ(c.lse(), infinity);
  for (const float x : {c.logprob(1), c.entropy(), c.sum_p2(), c.log_kept()}) EXPECT_EQ(bits_of(x), 0x7FC00000U);
  EXPECT_EQ(c.top_k(4), (std::vector<std::int64_t>{1, 3, 0, 2}));
  EXPECT_EQ(c.rank(3), 2);

  // A mask that removes what is special leaves an ordinary row, but log_kept knows the whole vocabulary.
  const std::vector<std::uint8_t> first_only{1, 0, 0, 0};
  EXPECT_EQ(Row(with_nan, first_only).lse(), 1.0F);
  EXPECT_EQ(bits_of(Row(with_nan, first_only).log_kept()), 0x7FC00000U);
  const std::vector<std::uint8_t> empty{0, 0, 0, 0};
  EXPECT_EQ(Row(with_nan, empty).lse(), -infinity);
}

}  // namespace
}  // namespace isologit::oracle
