// Pairs of doubles: the bounds that are said of their functions, and the roundings of their sums.
#include "cuda/pairs.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cuda/row_sum.cuh"
#include "oracle/cases.hpp"
#include "oracle/interval.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Interval;

mpq_class rational(const Pair& x) { return mpq_class(x.hi) + mpq_class(x.lo); }

// log2 of |found / real - 1|.
double share_lost(const Pair& found, const Interval& real) {
  const Interval off = Interval(rational(found), 400) / real - Interval(mpq_class(1), 400);
  const double size =
      std::max(std::fabs(mpfr_get_d(off.lo.get(), MPFR_RNDA)), std::fabs(mpfr_get_d(off.hi.get(), MPFR_RNDA)));
  return size == 0 ? -1000.0 : std::log2(size);
}

Pair random_pair(oracle::Random& random, double scale) {
  const double hi = random.sign() * (0.5 + random.uniform()) * scale;
  return sum_of(hi, hi * (random.uniform() - 0.5) * 0x1p-53);
}

TEST(CudaPairs, OperationsKeepTheirBounds) {
  oracle::Random random(1);
  double sums = -1000, products = -1000, quotients = -1000;
  for (int i = 0; i < 20000; ++i) {
    const Pair a = random_pair(random, std::ldexp(1.0, static_cast<int>(random.between(-60, 60))));
    const Pair b = random_pair(random, std::ldexp(1.0, static_cast<int>(random.between(-60, 60))));
    sums = std::max(sums, share_lost(add(a, b), Interval(rational(a) + rational(b), 400)));
    products = std::max(products, share_lost(multiply(a, b), Interval(rational(a) * rational(b), 400)));
    quotients = std::max(quotients, share_lost(divide(a, b), Interval(rational(a) / rational(b), 400)));
  }
  EXPECT_LT(sums, std::log2(3.0) - 106);
  EXPECT_LT(products, std::log2(5.0) - 106);
  EXPECT_LT(quotients, std::log2(10.0) - 106);
}

TEST(CudaPairs, ExponentialKeepsItsBound) {
  oracle::Random random(2);
  double whole = -1000, less_one = -1000;
  const auto look = [&](const Pair& x) {
    const Interval real = exp(Interval(rational(x), 400));
    whole = std::max(whole, share_lost(value_of(exponential(x)), real));
    if (x.hi != 0) less_one = std::max(less_one, share_lost(exp_less_one(x), real - Interval(mpq_class(1), 400)));
  };
  for (int i = 0; i < 5000; ++i) {
    const Pair x = random_pair(random, std::ldexp(1.0, static_cast<int>(random.between(-40, 8))));
    look({-std::fabs(x.hi), x.hi > 0 ? -x.lo : x.lo});
  }
  // Where the multiple of ln 2 changes, and where what is left after it is next to nothing.
  for (int k = 0; k < 900; ++k) {
    look({-(k + 0.5) * 0.6931471805599453, 0.0});
    look({-k * 0.6931471805599453, 0.0});
    look(sum_of(-k * 0.6931471805599453, -k * 0x1.abc9e3b39803fp-56));
  }
  EXPECT_LT(whole, -98);
  EXPECT_LT(less_one, -96);
}

// Sums of a row whose logits come in stretches of any length, merged in a tree: what they say of themselves, 2^-88.
TEST(CudaPairs, SumsOfARowKeepTheirBound) {
  oracle::Random random(4);
  double worst = -1000;
  for (int round = 0; round < 40; ++round) {
    std::vector<RowSum> parts;
    std::vector<float> logits;
    const double spread = std::ldexp(1.0, static_cast<int>(random.between(-20, 7)));
    for (int part = 0; part < 8; ++part) {
      std::vector<float> own;
      for (std::uint64_t i = 0; i < 1 + random.below(40); ++i)
        own.push_back(static_cast<float>(spread * random.normal()));
      RowSum sum = empty_row_sum();
      for (std::size_t i = 0; i < own.size(); ++i) {
        absorb(sum.greatest, own[i], static_cast<int>(logits.size() + i));
      }
      for (std::size_t i = 0; i < own.size(); ++i) {
        if (static_cast<int>(logits.size() + i) != sum.greatest.id) absorb<true>(sum.others, own[i], sum.greatest.top);
      }
      logits.insert(logits.end(), own.begin(), own.end());
      parts.push_back(sum);
    }
    for (std::size_t step = 1; step < parts.size(); step *= 2) {
      for (std::size_t i = 0; i + step < parts.size(); i += 2 * step) merge(parts[i], parts[i + step]);
    }
    const RowSum& row = parts[0];
    Interval rest(mpq_class(0), 400), moment(mpq_class(0), 400), squares(mpq_class(0), 400);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (static_cast<int>(i) == row.greatest.id) continue;
      const mpq_class gap = mpq_class(row.greatest.top) - mpq_class(logits[i]);
      const Interval e = exp(Interval(mpq_class(-gap), 400));
      rest = rest + e;
      moment = moment + e * Interval(gap, 400);
      squares = squares + e * e;
    }
    worst = std::max({worst, share_lost(row.others.rest, rest), share_lost(row.others.moment, moment),
                      share_lost(row.others.squares, squares)});
  }
  EXPECT_LT(worst, -88);
}

TEST(CudaPairs, LogarithmKeepsItsBound) {
  oracle::Random random(3);
  double worst = -1000;
  for (int i = 0; i < 6000; ++i) {
    const int exponent = static_cast<int>(i % 2 == 0 ? random.between(-20, 23) : random.between(-700, 60));
    Pair x = random_pair(random, std::ldexp(1.0, exponent));
    if (x.hi < 0) x = negative(x);
    worst = std::max(worst, share_lost(log_one_plus(x), log1p(Interval(rational(x), 1200))));
  }
  EXPECT_LT(worst, -95);
}

float rounded(const mpq_class& x) {
  const double found = oracle::round_sum(x, Interval(53), 0).value_or(1e300);
  return static_cast<float>(found) + 0.0F;
}

// Sums of four numbers of any sizes, on midpoints of two f32 numbers or a little beside.
TEST(CudaPairs, RoundsASumOfFourOnce) {
  oracle::Random random(4);
  for (int i = 0; i < 40000; ++i) {
    const double midpoint = std::ldexp(static_cast<double>(2 * random.between(1 << 23, 1 << 24) + random.between(0, 1)),
                                       static_cast<int>(random.between(-150, 90))) *
                            random.sign();
    const double other = std::ldexp(random.uniform(), static_cast<int>(random.between(-160, 90)));
    const double off = random.sign() * std::ldexp(1.0, static_cast<int>(random.between(-900, 60)));
    const double off2 = random.sign() * std::ldexp(random.uniform(), static_cast<int>(random.between(-900, 60)));
    const Pair exact = sum_of(midpoint, other);
    const Pair rest = i % 3 == 0 ? Pair{-other, off} : i % 3 == 1 ? Pair{-other, 0.0} : sum_of(off, off2);
    const float found = round_sum(exact, rest);
    ASSERT_EQ(bit_cast<std::uint32_t>(found), bit_cast<std::uint32_t>(rounded(rational(exact) + rational(rest))))
        << std::hexfloat << exact.hi << ' ' << exact.lo << ' ' << rest.hi << ' ' << rest.lo;
  }
}

// At a power of two the number below is half as far as the one above.
TEST(CudaPairs, RoundsAtPowersOfTwo) {
  for (const double lo : {-0x1p-24, -0x1p-25, 0x1p-24, -0x1p-54, 0x1p-54}) {
    for (const double more : {-0x1p-25, -0x1p-26, 0x1p-26, -0x1p-200, 0.0, 0x1p-200, -0x1p-53, 0x1p-53}) {
      const Pair exact = {1.0, lo}, rest = {more, -0x1p-300};
      EXPECT_EQ(round_sum(exact, rest), rounded(rational(exact) + rational(rest))) << lo << ' ' << more;
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
