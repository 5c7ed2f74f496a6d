// Sums in pairs of doubles against the oracle's intervals: within their proven errors.
#include "fold/pair_sums.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "exact/numbers.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"

namespace isologit::test {
namespace {

constexpr mpfr_prec_t kBits = 256;

// log2 of |value / exact - 1|, for high + low against an interval far narrower than the difference.
double relative_error(const mpq_class& value, const oracle::Interval& exact) {
  const oracle::Interval off = oracle::Interval(value, kBits) / exact - oracle::Interval(mpq_class(1), kBits);
  const double worst =
      std::max(std::fabs(mpfr_get_d(off.lo.get(), MPFR_RNDN)), std::fabs(mpfr_get_d(off.hi.get(), MPFR_RNDN)));
  return worst == 0 ? -1000 : std::log2(worst);
}

TEST(PairSums, ExponentialIsGoodTo76Bits) {
  oracle::Random random(1);
  double worst = -1000;
  for (int i = 0; i < 20000; ++i) {
    const double high = i < 200 ? std::ldexp(1.0 + random.uniform(), -i) : random.uniform() * 690;
    const double low = high * 0x1p-54 * (2 * random.uniform() - 1);
    const detail::fold::Pair term = detail::fold::exp_minus({high, low});
    const oracle::Interval exact = exp(oracle::Interval(-(rational(high) + rational(low)), kBits));
    worst = std::max(worst, relative_error(rational(term.high) + rational(term.low), exact));
  }
  EXPECT_LT(worst, -76);
}

TEST(PairSums, HoldTheOraclesSums) {
  for (const oracle::RowFamily family : {oracle::RowFamily::normal, oracle::RowFamily::near_certain,
                                         oracle::RowFamily::two_level, oracle::RowFamily::top_ties}) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      const std::vector<float> logits = oracle::make_row(family, 500, seed);
      const oracle::Row row(logits);
      detail::fold::PairSums first(row.top());
      detail::fold::PairSums second(row.top());
      first.absorb(logits.data(), 123);
      second.absorb(logits.data() + 123, 377);
      first.merge(second);
      detail::fold::RowSums sums;
      ASSERT_TRUE(first.finish(sums)) << name_of(family) << seed;
      EXPECT_EQ(sums.ties, row.ties());
      EXPECT_EQ(sums.others, row.has_others());
      if (!sums.others) continue;
      const oracle::Tail& tail = row.tail(kBits);
      EXPECT_TRUE(holds(sums.mass, tail.mass)) << name_of(family) << seed;
      EXPECT_TRUE(holds(sums.moment, tail.moment)) << name_of(family) << seed;
      EXPECT_LT(relative_error(rational(sums.mass.middle), tail.mass), -68) << name_of(family) << seed;
      EXPECT_LT(relative_error(rational(sums.moment.middle), tail.moment), -68) << name_of(family) << seed;
    }
  }
}

TEST(PairSums, RefuseRowsBeyondTheirRange) {
  const float far[] = {0.0F, -301.0F};
  detail::fold::PairSums sums(0.0F);
  sums.absorb(far, 2);
  detail::fold::RowSums result;
  EXPECT_FALSE(sums.finish(result));
  const float alone[] = {5.0F, -std::numeric_limits<float>::infinity()};
  detail::fold::PairSums one(5.0F);
  one.absorb(alone, 2);
  ASSERT_TRUE(one.finish(result));
  EXPECT_EQ(result.ties, 1);
  EXPECT_FALSE(result.others);
}

}  // namespace
}  // namespace isologit::test
