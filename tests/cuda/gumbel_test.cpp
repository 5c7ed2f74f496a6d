// The random words of draws and the bounds that are said of g = -ln(-ln u); which of two contenders is taken.
#include "cuda/gumbel.cuh"

#include <gtest/gtest.h>

#include <vector>

#include "oracle/cases.hpp"
#include "oracle/interval.hpp"
#include "oracle/sample.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Interval;

// Of u = (bits + 1/2) 2^-64.
Interval real_gumbel(std::uint64_t bits) {
  mpz_class odd = static_cast<unsigned long>(bits);
  mpq_class u(2 * odd + 1);
  mpq_div_2exp(u.get_mpq_t(), u.get_mpq_t(), 65);
  return -log(-log(Interval(u, 400)));
}
bool is_within(const Pair& found, const Interval& real, double bound) {
  const Interval off = Interval(mpq_class(found.hi) + mpq_class(found.lo), 400) - real;
  const Interval most(mpq_class(bound), 400);
  return (off - most).sign() < 0 && (off + most).sign() > 0;
}

TEST(CudaGumbel, WordsAreThoseOfTheContract) {
  oracle::Random random(3);
  for (int i = 0; i < 1000; ++i) {
    const oracle::DrawKey key{random.next(), random.next(), static_cast<std::uint32_t>(random.next())};
    const auto v = static_cast<std::uint32_t>(random.below(std::uint64_t{1} << (i % 32)));
    const oracle::Words want = oracle::words_of(key, v);
    const DrawWords words = draw_words({key.seed, key.sequence, key.position}, v / 4);
    ASSERT_EQ(words.bits_of(static_cast<int>(v % 4)), std::uint64_t{want.r1} << 32 | want.r2);
  }
}

TEST(CudaGumbel, NumbersKeepTheirBounds) {
  std::vector<std::uint64_t> all{0, 1, 2, ~std::uint64_t{0}, ~std::uint64_t{1}};
  // Where the first or the second logarithm is near 0, u near 1/2 and 1/e, and where the function's branches meet.
  for (const std::uint64_t near :
       {std::uint64_t{1} << 63, std::uint64_t{6786177901268885274}, std::uint64_t{1} << 32}) {
    for (std::uint64_t i = 0; i < 8; ++i) all.push_back(near - 4 + i);
    for (int shift = 3; shift < 60; ++shift) {
      all.push_back(near + (std::uint64_t{1} << shift));
      all.push_back(near - (std::uint64_t{1} << shift));
    }
  }
  for (int shift = 1; shift < 64; ++shift) {
    all.push_back(std::uint64_t{1} << shift);
    all.push_back(~(std::uint64_t{1} << shift));
    all.push_back(~std::uint64_t{0} << shift);
  }
  oracle::Random random(4);
  for (int i = 0; i < 2000; ++i) all.push_back(random.next());
  for (const std::uint64_t bits : all) {
    const Interval real = real_gumbel(bits);
    ASSERT_TRUE(is_within(gumbel(bits), real, 0x1p-88)) << bits;
    ASSERT_TRUE(is_within({gumbel_near(bits), 0.0}, real, 0x1p-33)) << bits;
    ASSERT_TRUE(is_within({20.6, 0.0}, real, 24.5)) << bits;  // what kNeverWins takes for granted: a width of 49
  }
}

Contender of(float z, double g, int id, std::uint64_t bits) { return {{g, 0.0}, z, id, bits, 0, 0}; }
Contender taken(Contender a, const Contender& b) {
  merge(a, b);
  return a;
}

TEST(CudaGumbel, TheGreaterIsTaken) {
  const Contender none = nobody(), low = of(1.0F, 2.0, 7, 5), high = of(1.5F, 1.75, 3, 6);
  EXPECT_EQ(taken(none, low).id, 7);
  EXPECT_EQ(taken(low, none).id, 7);
  EXPECT_EQ(taken(low, high).id, 3);
  EXPECT_EQ(taken(high, low).id, 3);
  EXPECT_EQ(taken(high, low).open, 0U);
  // Of logits that swallow g in any sum.
  const Contender huge = of(3e38F, 1.0, 1, 1), larger = of(3e38F, 1.0 + 0x1p-50, 2, 2);
  EXPECT_EQ(taken(huge, larger).id, 2);
  EXPECT_EQ(taken(larger, huge).id, 2);
}

TEST(CudaGumbel, EqualOnesGoByTheId) {
  const Contender first = of(1.0F, 2.0, 3, 5), second = of(1.0F, 2.0, 7, 5);
  for (const Contender& one : {taken(first, second), taken(second, first)}) {
    EXPECT_EQ(one.id, 3);
    EXPECT_EQ(one.open, 0U);
  }
}

TEST(CudaGumbel, WhatCannotBeToldIsOpenUntilItIsBeaten) {
  const Contender one = of(1.0F, 2.0, 3, 5);
  Contender other = of(1.5F, 1.5, 7, 6);
  other.gumbel.lo = 0x1p-90;
  const Contender both = taken(one, other);
  EXPECT_EQ(both.open, 1U);
  EXPECT_EQ(taken(other, one).open, 1U);
  const Contender low = of(1.0F, 1.0, 9, 9), high = of(1.0F, 3.0, 9, 9);
  EXPECT_EQ(taken(both, low).open, 1U);
  EXPECT_EQ(taken(low, both).open, 1U);
  EXPECT_EQ(taken(both, high).open, 0U);
  EXPECT_EQ(taken(high, both).open, 0U);
  other.gumbel.lo = 0x1p-85;
  EXPECT_EQ(taken(one, other).open, 0U);
  EXPECT_EQ(taken(one, other).id, 7);
  // A number that a platform's logarithm spoilt.
  EXPECT_EQ(taken(one, of(1.0F, std::nan(""), 7, 6)).open, 1U);
}

}  // namespace
}  // namespace isologit::detail::cuda
