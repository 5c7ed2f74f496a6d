// Attention by the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/attention.cuh"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.hpp"
#include "oracle/interval.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Random;

constexpr DType kTypes[] = {DType::bf16, DType::f16};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What pairs leave open is a mean of values whose weights differ by less than they tell: of tiny scores, and of scores
// that a softcap makes one.
TEST(CudaAttention, EveryFamilyAndType) {
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType dtype : kTypes) {
      Problem p;
      p.dtype = dtype;
      p.queries = {3, 1};
      p.keys = {3, 9};
      const std::uint32_t plain = check(p, random_operands(p, family, seed++), name_of(family));
      p.softcap = 2;
      p.window = 3;
      p.sinks = {0.5F, -3, 20, -kInfinity};
      const std::uint32_t capped = check(p, random_operands(p, family, seed++), name_of(family));
      const bool is_tiny = family == Family::tiny && dtype == DType::bf16;
      EXPECT_LE(plain, is_tiny ? 40U : 0U) << name_of(family) << ' ' << dtype_name(dtype);
      EXPECT_LE(capped, is_tiny ? 40U : 4U) << name_of(family) << ' ' << dtype_name(dtype);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Heads of every number of elements that models have and some that none has; by copies of 16 bytes and without.
TEST(CudaAttention, Heads) {
  std::uint64_t seed = 100;
  for (const auto& [dim, value_dim] :
       {std::pair{64, 64}, {80, 80}, {128, 128}, {192, 128}, {256, 256}, {1, 1}, {33, 17}, {129, 5}}) {
    for (const bool aligned : {false, true}) {
      if (aligned && (dim % 8 != 0 || value_dim % 8 != 0)) continue;
      Problem p;
      p.dtype = seed % 2 == 0 ? DType::bf16 : DType::f16;
      p.dim = dim;
      p.value_dim = value_dim;
      p.heads = 5;
      p.kv_heads = 1;
      p.queries = {9, 1};
      p.keys = {9, 70};
      p.scale = 1 / std::sqrt(static_cast<float>(dim));
      p.aligned = aligned;
      EXPECT_EQ(check(p, random_operands(p, Family::normal, seed++), "heads", 97), 0U) << dim;
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Against the library on the CPU, itself held to the oracle: prefill and decode over many tiles, groups of heads that a
// tile does not hold, splits; by copies and without.
TEST(CudaAttention, ManyTiles) {
  struct Shape {
    std::int64_t heads, kv_heads, dim;
    std::vector<std::int64_t> queries, keys;
    int splits;
  };
  const Shape shapes[] = {
      {4, 2, 64, {100}, {100}, 1},        {8, 1, 128, {1, 3, 0, 9}, {300, 3, 7, 150}, 0}, {48, 1, 16, {3}, {80}, 3},
      {6, 3, 256, {11, 1}, {20, 150}, 2}, {4, 4, 80, {1, 1, 1}, {1, 65, 129}, 5},         {2, 1, 128, {1}, {900}, 0},
  };
  std::uint64_t seed = 200;
  for (const Shape& shape : shapes) {
    for (const std::int64_t window : {0, 70}) {
      Problem p;
      p.dtype = seed % 2 == 0 ? DType::bf16 : DType::f16;
      p.heads = shape.heads;
      p.kv_heads = shape.kv_heads;
      p.dim = p.value_dim = shape.dim;
      p.queries = shape.queries;
      p.keys = shape.keys;
      p.splits = shape.splits;
      p.scale = 1 / std::sqrt(static_cast<float>(shape.dim));
      p.window = window;
      p.causal = seed % 3 != 0;
      p.aligned = seed % 4 < 2;
      if (seed % 5 == 0) p.sinks.assign(static_cast<std::size_t>(p.heads), 2.5F);
      if (seed % 7 == 0) p.softcap = 5;
      const bool is_normal = seed % 2 == 0 || p.softcap != 0;  // a softcap makes one of outliers' scores
      check_by_library(p, random_operands(p, is_normal ? Family::normal : Family::outliers, seed), "tiles");
      ASSERT_FALSE(HasFailure()) << shape.dim << ' ' << window;
      ++seed;
    }
  }
}

// Each row sees another part of the tiles; and of NaN in a key or value only those that see it.
TEST(CudaAttention, RowsThatSeePartsOfATile) {
  for (const std::int64_t window : {0, 1, 40}) {
    Problem p;
    p.queries = {41};
    p.keys = {75};
    p.dim = 7;
    p.value_dim = 2;
    p.window = window;
    p.splits = window == 40 ? 2 : 1;
    Operands o = random_operands(p, Family::normal, 3);
    EXPECT_EQ(check(p, o, "parts"), 0U);
    o.k.set(50, 0, 2, std::nan(""));
    o.v.set(66, 1, 1, std::numeric_limits<double>::infinity());
    EXPECT_EQ(check(p, o, "parts, NaN"), 0U);
    ASSERT_FALSE(HasFailure()) << window;
  }
}

TEST(CudaAttention, AHundredThousandKeys) {
  Problem p;
  p.heads = p.kv_heads = 1;
  p.queries = {1};
  p.keys = {100000};
  p.dim = 5;
  p.value_dim = 1;
  EXPECT_EQ(check(p, random_operands(p, Family::normal, 4), "100,000 keys"), 0U);
}

// Of one key, or of equal values, or of zeros, the result is a number of the type.
TEST(CudaAttention, EqualValuesAndZeros) {
  for (const double value : {0.0, -0.0, 1.0, -0x1.84p5, 0x1p-20}) {
    for (const int splits : {1, 2}) {
      Problem p;
      p.queries = {70};
      p.keys = {70};
      p.splits = splits;
      Operands o = random_operands(p, Family::normal, 5);
      for (std::int64_t j = 0; j < 70; ++j) {
        for (std::int64_t d = 0; d < p.value_dim; d += 2) o.v.set(j, d % 4 / 2, d, value);
      }
      const Attended found = attend(p, o);
      for (std::int64_t i = 0; i < 70; ++i) {
        for (std::int64_t d = 0; d < p.value_dim; d += 2) {
          for (std::int64_t h = 0; h < 2; ++h) ASSERT_TRUE(same(found.y.at(i, d % 4 / 2 * 2 + h, d), value + 0.0));
        }
      }
      EXPECT_EQ(found.status.open, 0U);
    }
  }
}

// Keys that are equal in pairs, and values whose mean is a boundary: exact ties are left open. One more key tells the
// side: far below by less than pairs know, or by more.
TEST(CudaAttention, TiesAndNearTies) {
  for (const DType dtype : kTypes) {
    for (const int far : {0, -2, -6, -30}) {
      for (const int side : {1, -1}) {
        Problem p;
        p.dtype = dtype;
        p.heads = p.kv_heads = 1;
        p.value_dim = 16;
        p.queries = {1};
        p.keys = {far == 0 ? 2 : 3};
        p.scale = 0.5F;
        Operands o{Laid(dtype, 1, 1, p.dim), Laid(dtype, p.keys[0], 1, p.dim), Laid(dtype, p.keys[0], 1, 16)};
        const int bits = dtype == DType::bf16 ? 8 : 11;
        for (std::int64_t d = 0; d < p.dim; ++d) o.q.set(0, 0, d, 1);
        for (std::int64_t j = 0; j < p.keys[0]; ++j) {
          for (std::int64_t d = 0; d < p.dim; ++d) o.k.set(j, 0, d, j == 2 ? far : 1);
          for (std::int64_t d = 0; d < 16; ++d) {
            const double one = 1 + static_cast<double>(d) * std::ldexp(1, 1 - bits);
            o.v.set(j, 0, d, j == 0 ? one : j == 1 ? one + std::ldexp(1, 1 - bits) : one + side);
          }
        }
        // A distance of 30, of 70 (2^-101 of the weight), of 310.
        EXPECT_EQ(check(p, o, "tie"), far == -2 ? 0U : 16U) << far;
      }
    }
  }
}

// A bf16 or f16 number that f64 holds.
double held(double x, DType dtype) { return static_cast<double>(round_once(x, static_cast<int>(dtype))); }

// One query of many heads, each with keys of its own, the first of score 0.
Problem of_two_keys(DType dtype) {
  Problem p;
  p.dtype = dtype;
  p.heads = p.kv_heads = 96;
  p.dim = 32;
  p.value_dim = 1;
  p.queries = {1};
  p.keys = {2};
  p.scale = 1;
  return p;
}

// Two values of unlike signs, and a second score at which their mean is a boundary but for some 2^-60: its digits are
// elements of the key. Of small scores and small means only the bounds of sums and weights tell f64 that it does not
// know.
TEST(CudaAttention, ScoresThatMakeNearTies) {
  for (const DType dtype : kTypes) {
    Problem p = of_two_keys(dtype);
    Random random(21);
    Operands o{Laid(dtype, 1, p.heads, p.dim), Laid(dtype, 2, p.heads, p.dim), Laid(dtype, 2, p.heads, 1)};
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const double one = held(1 + random.uniform(), dtype);
      const double other = held(h % 2 == 0 ? -1 - random.uniform() : -one * (0.98 - 0.06 * random.uniform()), dtype);
      const double part = std::ldexp(random.uniform() - 0.5, -static_cast<int>(random.below(6)));
      const double near = held(h % 2 == 0 ? part : (one + other) / 2, dtype);
      const double boundary = near * (1 + (dtype == DType::bf16 ? 0x1p-9 : 0x1p-12));
      const int places = dtype == DType::bf16 ? 8 : 11;
      const double middle = std::ldexp(std::floor(std::ldexp(boundary, places - std::ilogb(boundary) - 1)) + 0.5,
                                       std::ilogb(boundary) + 1 - places);
      long double rest = std::log((static_cast<long double>(one) - static_cast<long double>(middle)) /
                                  (static_cast<long double>(middle) - static_cast<long double>(other)));
      for (std::int64_t d = 0; d < p.dim; ++d) {
        o.q.set(0, h, d, d < 16 ? 1 : 0);
        const double digit = held(static_cast<double>(rest), dtype);
        o.k.set(0, h, d, 0);
        o.k.set(1, h, d, d < 16 ? digit : 0);
        if (d < 16) rest -= static_cast<long double>(digit);
      }
      o.v.set(0, h, 0, one);
      o.v.set(1, h, 0, other);
    }
    EXPECT_EQ(check(p, o, "near ties"), 0U);
  }
}

// Values whose mean is a boundary if scores are equal, and scores that differ by what f64 drops between products that
// cancel.
TEST(CudaAttention, ScoresThatCancel) {
  Problem p = of_two_keys(DType::bf16);
  p.scale = 0x1p-24F;  // scores of products up to 2^18
  Random random(22);
  Operands o{Laid(p.dtype, 1, p.heads, p.dim), Laid(p.dtype, 2, p.heads, p.dim), Laid(p.dtype, 2, p.heads, 1)};
  for (std::int64_t h = 0; h < p.heads; ++h) {
    for (std::int64_t d = 0; d < p.dim; ++d) {
      const bool is_great = d == 0 || d == 31;
      o.q.set(0, h, d, is_great ? 0x1p20 : 1);
      for (std::int64_t j = 0; j < 2; ++j) {
        const double small = static_cast<double>(random.between(-255, 255)) * 0x1p-20;
        o.k.set(j, h, d, d == 0 ? 0x1p20 : d == 31 ? -0x1p20 : small);
      }
    }
    o.v.set(0, h, 0, 1 + static_cast<double>(2 * random.below(64)) * 0x1p-7);
    o.v.set(1, h, 0, -0.25 * (1 + static_cast<double>(random.below(128)) * 0x1p-7));
    const double twice = o.v.at(0, h, 0) + o.v.at(1, h, 0);  // whose last bit is one too many for a bf16 number
    const double bits = std::ldexp(twice, 8 - std::ilogb(twice));
    o.v.set(1, h, 0, o.v.at(1, h, 0) - std::ldexp(bits - (2 * std::floor(bits / 2) + 1), std::ilogb(twice) - 8));
  }
  EXPECT_EQ(check(p, o, "scores that cancel"), 0U);
}

// Products that cancel in three steps, of which pairs drop the last: a score is known to some 2^-51, or to some 2^29,
// and what it decides is left open.
TEST(CudaAttention, ScoresThatPairsDoNotKnow) {
  for (const float scale : {0x1p-80F, 1.0F}) {
    Problem p = of_two_keys(DType::bf16);
    p.scale = scale;
    Random random(23);
    Operands o{Laid(p.dtype, 1, p.heads, p.dim), Laid(p.dtype, 2, p.heads, p.dim), Laid(p.dtype, 2, p.heads, 1)};
    for (std::int64_t h = 0; h < p.heads; ++h) {
      for (std::int64_t d = 0; d < p.dim; ++d) {
        const bool is_great = d == 0 || d == 31;
        o.q.set(0, h, d, is_great ? 0x1p60 : 1);
        for (std::int64_t j = 0; j < 2; ++j) {
          const double small = static_cast<double>(random.between(-255, 255)) * 0x1p5;
          const double size = is_great ? 0x1p60 : 0x1p66;
          o.k.set(j, h, d, d < 2 ? size : d > 29 ? -size : small);
        }
      }
      o.v.set(0, h, 0, 1);  // which with the other has a boundary as its mean
      o.v.set(1, h, 0, h % 2 == 0 ? 1 + 0x1p-7 : -0.25 * (1 + 0x1p-7));
    }
    check(p, o, "scores that pairs do not know");
  }
}

// A weight of 2^-32 whose value is 2^25.
TEST(CudaAttention, SmallWeightsOfGreatValues) {
  Problem p = of_two_keys(DType::bf16);
  Random random(24);
  Operands o = random_operands(p, Family::normal, 25);
  for (std::int64_t h = 0; h < p.heads; ++h) {
    for (std::int64_t d = 0; d < p.dim; ++d) {
      o.q.set(0, h, d, d == 0 ? 1 : 0);
      o.k.set(0, h, d, 0);
      o.k.set(1, h, d, d == 0 ? -22 : 0);
    }
    o.v.set(0, h, 0, 1 + random.uniform());
    o.v.set(1, h, 0, std::ldexp(1 + random.uniform(), 25));
  }
  EXPECT_EQ(check(p, o, "great values"), 0U);
}

// Values that cancel, but for what other keys add, in another split or not.
TEST(CudaAttention, ValuesThatCancel) {
  for (const DType dtype : kTypes) {
    for (const int splits : {1, 2}) {
      Problem p;
      p.dtype = dtype;
      p.heads = p.kv_heads = 2;
      p.value_dim = 24;
      p.queries = {2};
      p.keys = {splits == 1 ? 41 : 70};
      p.splits = splits;
      Operands o = random_operands(p, Family::normal, 6);
      const std::int64_t cancelled = splits == 1 ? 40 : 64;
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t j = 0; j < cancelled; j += 2) {
          for (std::int64_t d = 0; d < p.dim; ++d) o.k.set(j + 1, h, d, o.k.at(j, h, d));
          for (std::int64_t d = 0; d < p.value_dim; ++d) o.v.set(j + 1, h, d, -o.v.at(j, h, d));
        }
        for (std::int64_t j = cancelled; j < p.keys[0]; ++j) {
          for (std::int64_t d = 0; d < p.value_dim; ++d) {
            const int power = dtype == DType::bf16 ? -static_cast<int>(2 * d) : -12;
            o.v.set(j, h, d, std::ldexp(1 + static_cast<double>(d) / 128, power));
          }
        }
      }
      p.causal = false;
      EXPECT_EQ(check(p, o, "cancelled"), 0U);
    }
  }
}

TEST(CudaAttention, HugeScores) {
  for (const float softcap : {0.0F, 30.0F}) {
    Problem p;
    p.queries = {2};
    p.keys = {6};
    p.softcap = softcap;
    p.scale = 1e6F;
    // What is open are ties, of equal scores and of those past the cap.
    EXPECT_LE(check(p, random_operands(p, Family::few_values, 5), "huge"), 14U);
    EXPECT_LE(check(p, random_operands(p, Family::outliers, 6), "huge"), softcap == 0 ? 0U : 5U);
    p.sinks = {1e30F, -1e30F, 0, kInfinity};
    EXPECT_LE(check(p, random_operands(p, Family::few_values, 7), "huge sinks"), softcap == 0 ? 6U : 14U);
    p.sinks = {std::nanf(""), 700000, -700000, -kInfinity};
    EXPECT_LE(check(p, random_operands(p, Family::normal, 8), "sinks"), softcap == 0 ? 0U : 10U);
  }
}

// Scores far apart, in both orders, so that sums are taken to other units, and past all that f64 holds; ascending and
// descending over tiles and splits.
TEST(CudaAttention, ScoresFarApart) {
  for (const double step : {0.25, 3.0, 40.0, 2000.0}) {
    for (const int direction : {1, -1}) {
      for (const int splits : {1, 3}) {
        Problem p;
        p.heads = p.kv_heads = 1;
        p.dim = 2;
        p.value_dim = 5;
        p.queries = {2};
        p.keys = {300};
        p.scale = static_cast<float>(step);
        p.causal = false;
        p.splits = splits;
        p.sinks = {direction > 0 ? 17.25F : -kInfinity};
        Operands o = random_operands(p, Family::normal, 9);
        for (std::int64_t j = 0; j < 300; ++j) {
          o.k.set(j, 0, 0, static_cast<double>(j / 2));  // which bf16 has all of
          o.k.set(j, 0, 1, 0);
        }
        o.q.set(0, 0, 0, direction);
        o.q.set(1, 0, 0, direction * 0.5);
        check(p, o, "far apart");
        ASSERT_FALSE(HasFailure()) << step << ' ' << direction << ' ' << splits;
      }
    }
  }
}

// Pairs alone: with a NaN in a key of the tile that only the last query sees, f64 proves nothing of the tile.
TEST(CudaAttention, PairsDecideAllFamilies) {
  std::uint64_t seed = 300;
  for (const Family family : families) {
    for (const DType dtype : kTypes) {
      for (const float softcap : {0.0F, 3.0F}) {
        Problem p;
        p.dtype = dtype;
        p.queries = {5};
        p.keys = {12};
        p.softcap = softcap;
        if (seed % 2 == 0) p.sinks = {0.5F, -3, 20, -kInfinity};
        Operands o = random_operands(p, family, seed++);
        for (std::int64_t h = 0; h < 2; ++h) o.k.set(11, h, 0, std::nan(""));
        const std::uint32_t open = check(p, o, name_of(family));
        const bool is_tiny = family == Family::tiny && dtype == DType::bf16;
        EXPECT_LE(open, is_tiny ? 60U : softcap == 0 ? 0U : 10U) << name_of(family) << ' ' << dtype_name(dtype);
        ASSERT_FALSE(HasFailure());
      }
    }
  }
}

// log2 of how far e^z is from what it was taken for, of itself, and of softcaps by f64 and by pairs, of the cap.
TEST(CudaAttention, FunctionsAreWithinTheirBounds) {
  Random random(13);
  double of_exponentials = -1000, of_caps = -1000, of_pairs = -1000;
  for (int i = 0; i < 40000; ++i) {
    const double size = std::ldexp(1.0 + random.uniform(), static_cast<int>(random.between(-30, 19)));
    const double z = i % 2 == 0 ? size : -size;
    oracle::Real right(300), off(300);
    mpfr_set_d(right.get(), z, MPFR_RNDN);
    mpfr_exp(right.get(), right.get(), MPFR_RNDN);
    const NearExponential e = exponential_parts(z);
    mpfr_set_d(off.get(), e.m, MPFR_RNDN);
    mpfr_mul_2si(off.get(), off.get(), e.k, MPFR_RNDN);
    mpfr_sub(off.get(), off.get(), right.get(), MPFR_RNDN);
    mpfr_div(off.get(), off.get(), right.get(), MPFR_RNDN);
    of_exponentials = std::max(of_exponentials, std::log2(std::fabs(mpfr_get_d(off.get(), MPFR_RNDA)) + 0x1p-200));
    const double cap = i % 3 == 0 ? 50.0 : static_cast<double>(0.3F);
    mpfr_set_d(right.get(), z, MPFR_RNDN);
    mpfr_div_d(right.get(), right.get(), cap, MPFR_RNDN);
    mpfr_tanh(right.get(), right.get(), MPFR_RNDN);
    mpfr_sub_d(off.get(), right.get(), capped_near(z, cap) / cap, MPFR_RNDN);
    of_caps = std::max(of_caps, std::log2(std::fabs(mpfr_get_d(off.get(), MPFR_RNDA)) + 0x1p-200));
    const Pair pair = capped({z, z * 0x1.1p-54}, cap);
    mpfr_set_d(right.get(), z, MPFR_RNDN);
    mpfr_add_d(right.get(), right.get(), z * 0x1.1p-54, MPFR_RNDN);
    mpfr_div_d(right.get(), right.get(), cap, MPFR_RNDN);
    mpfr_tanh(right.get(), right.get(), MPFR_RNDN);
    mpfr_mul_d(right.get(), right.get(), cap, MPFR_RNDN);
    mpfr_sub_d(off.get(), right.get(), pair.hi, MPFR_RNDN);
    mpfr_sub_d(off.get(), off.get(), pair.lo, MPFR_RNDN);
    mpfr_div_d(off.get(), off.get(), cap, MPFR_RNDN);
    of_pairs = std::max(of_pairs, std::log2(std::fabs(mpfr_get_d(off.get(), MPFR_RNDA)) + 0x1p-200));
  }
  EXPECT_LT(of_exponentials, -50);
  EXPECT_LT(of_caps, -49);
  EXPECT_LT(of_pairs, -93);
}

}  // namespace
}  // namespace isologit::detail::cuda
