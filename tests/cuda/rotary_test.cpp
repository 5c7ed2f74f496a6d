// Rotary embeddings by the CUDA kernels, compiled for the host, against the oracle: bits; and the bounds of angles.
#include "cuda/rotary.cuh"

#include "activations.hpp"
#include "oracle/interval.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Random;
using oracle::Real;

struct Asked {
  std::vector<std::int64_t> positions;
  std::vector<float> frequencies;
  bool interleaved = false;
  float factor = 1;
};

Status turn(const Laid& x, const Asked& asked, const Laid& y) {
  Status status = {};
  isologit_cuda_rotary_request request = {};
  request.x = x.view();
  request.positions = asked.positions.data();
  request.frequencies = asked.frequencies.data();
  request.frequency_count = static_cast<std::int64_t>(asked.frequencies.size());
  request.layout = asked.interleaved ? ISOLOGIT_ROTARY_PAIRS : ISOLOGIT_ROTARY_HALVES;
  request.factor = asked.factor;
  request.y = y.output();
  request.status = &status.open;
  make_on_host(request, [](auto& launcher, const auto& r) { launch_rotary(launcher, r); });
  return status;
}

void check_rotary(const Laid& x, DType type, std::int64_t dim, const Asked& asked, const std::string& what) {
  const auto tokens = static_cast<std::int64_t>(asked.positions.size());
  const auto pairs = static_cast<std::int64_t>(asked.frequencies.size());
  const Laid y(type, tokens, 2, dim, 2);
  const Status status = turn(x, asked, y);
  EXPECT_EQ(status.open + status.wrong, 0U) << what;
  ASSERT_TRUE(y.gaps_untouched() && y.nans_are_the_one());
  const auto m = static_cast<double>(asked.factor);
  for (std::int64_t row = 0; row < 2 * tokens; ++row) {
    const std::int64_t t = row / 2, h = row % 2;
    for (std::int64_t j = 0; j < pairs; ++j) {
      const std::int64_t one = asked.interleaved ? 2 * j : j, two = asked.interleaved ? 2 * j + 1 : j + pairs;
      const double a = x.at(t, h, one), b = x.at(t, h, two);
      const std::int64_t p = asked.positions[static_cast<std::size_t>(t)];
      const auto f = static_cast<double>(asked.frequencies[static_cast<std::size_t>(j)]);
      ASSERT_TRUE(same(y.at(t, h, one), oracle::turned(m, a, -b, p, f, format_of(type))))
          << what << ' ' << dtype_name(type) << ' ' << a << ' ' << b << ' ' << p << ' ' << f;
      ASSERT_TRUE(same(y.at(t, h, two), oracle::turned(m, b, a, p, f, format_of(type))))
          << what << ' ' << dtype_name(type) << ' ' << a << ' ' << b << ' ' << p << ' ' << f;
    }
    for (std::int64_t d = 2 * pairs; d < dim; ++d) ASSERT_TRUE(same(y.at(t, h, d), x.at(t, h, d) + 0.0));
  }
}

std::vector<float> frequencies(int pairs) {
  std::vector<float> found;
  for (int j = 0; j < pairs; ++j)
    found.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(j) / pairs)));
  return found;
}

TEST(CudaRotary, EveryFamilyAndType) {
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType type : dtypes) {
      for (const bool interleaved : {false, true}) {
        Random random(seed);
        const int pairs = seed % 3 == 0 ? 40 : 9;
        const std::int64_t dim = 2 * pairs + 3;
        const Laid x = Laid::random(random, family, type, 6, 2, dim, 1);
        check_rotary(
            x, type, dim,
            {{0, 1, 2, 4095, 1048576, 2147483647}, frequencies(pairs), interleaved, seed % 2 == 0 ? 1.0F : 1.2079F},
            name_of(family));
        ++seed;
      }
    }
  }
}

// b next to -a cos / sin, whose sum f64 cannot know.
TEST(CudaRotary, SumsThatNearlyCancel) {
  Random random(5);
  for (const DType type : dtypes) {
    Asked asked;
    constexpr int kPairs = 20;
    const Laid given = Laid::random(random, Family::normal, type, 12, 2, 2 * kPairs);
    Laid x = given;
    for (std::int64_t t = 0; t < 12; ++t) asked.positions.push_back(random.between(1, t % 2 == 0 ? 4096 : 2147483647));
    for (int j = 0; j < kPairs; ++j) {
      asked.frequencies.push_back(static_cast<float>(std::ldexp(0.5 + 0.5 * random.uniform(), -j / 2)));
      for (std::int64_t t = 0; t < 12; ++t) {
        const Turn<double> turn =
            turn_near(asked.positions[static_cast<std::size_t>(t)], static_cast<double>(asked.frequencies.back()));
        x.set(t, 0, j + kPairs, x.at(t, 0, j) * turn.cosine / turn.sine);
        x.set(t, 1, j + kPairs, -x.at(t, 1, j) * turn.sine / turn.cosine);
      }
    }
    check_rotary(x, type, 2 * kPairs, asked, "cancelled");
  }
}

TEST(CudaRotary, ZeroFactorsAndFrequenciesAndTies) {
  for (const DType type : dtypes) {
    Random random(3);
    const Laid x = Laid::random(random, Family::specials, type, 3, 2, 6);
    for (const float factor : {0.0F, -2.5F}) {
      check_rotary(x, type, 6, {{0, 7, 1000}, {0.0F, 1.0F, 0x1p-149F}, false, factor}, "zeros");
    }
    // Products with a factor of many bits are ties where nothing turns.
    const Laid few = Laid::random(random, Family::few_values, type, 1, 2, 6);
    const float tie = type == DType::bf16 ? 1 + 0x3p-8F : type == DType::f16 ? 1 + 0x3p-11F : 1 + 0x1p-23F;
    check_rotary(few, type, 6, {{0}, {0.5F, 1.0F, 0.0F}, true, tie}, "ties");
  }
}

TEST(CudaRotary, InPlace) {
  Random random(8);
  for (const bool interleaved : {false, true}) {
    const Laid x = Laid::random(random, Family::normal, DType::bf16, 6, 2, 70);
    const Laid y(DType::bf16, 6, 2, 70);
    const Asked asked = {{0, 1, 2, 3, 4, 5}, frequencies(34), interleaved};
    turn(x, asked, y);
    turn(x, asked, x);
    EXPECT_TRUE(x == y);
  }
}

TEST(CudaRotary, WhatIsOutOfRangeIsCounted) {
  Random random(9);
  const Laid x = Laid::random(random, Family::normal, DType::bf16, 2, 2, 8);
  const Laid y(DType::bf16, 2, 2, 8);
  EXPECT_EQ(turn(x, {{1, 2}, {1.0F, 0.5F}}, y).wrong, 0U);
  EXPECT_EQ(turn(x, {{-1, 2}, {1.0F, 0.5F}}, y).wrong, 2U);  // by each head
  EXPECT_EQ(turn(x, {{1, std::int64_t{1} << 31}, {1.0F, 0.5F}}, y).wrong, 2U);
  EXPECT_EQ(turn(x, {{1, 2}, {1.5F, 0.5F}}, y).wrong, 4U);
  EXPECT_EQ(turn(x, {{1, 2}, {1.0F, std::nanf("")}}, y).wrong, 4U);
}

// Positions at which a frequency's angle comes near to a multiple of a quarter turn: denominators of the fractions that
// come nearest to f 2 / pi.
std::vector<std::int64_t> near_quarters(float f) {
  Real ratio(300), whole(300);
  mpfr_const_pi(ratio.get(), MPFR_RNDN);
  mpfr_si_div(ratio.get(), 2, ratio.get(), MPFR_RNDN);
  mpfr_mul_d(ratio.get(), ratio.get(), static_cast<double>(f), MPFR_RNDN);
  std::vector<std::int64_t> found;
  for (std::int64_t before = 0, last = 1; last < std::int64_t{1} << 31;) {
    found.push_back(last);
    mpfr_frac(whole.get(), ratio.get(), MPFR_RNDN);
    mpfr_ui_div(ratio.get(), 1, whole.get(), MPFR_RNDN);
    const long next = mpfr_get_si(ratio.get(), MPFR_RNDZ);
    const std::int64_t sum = next > std::int64_t{1} << 31 ? std::int64_t{1} << 31 : before + next * last;
    before = last;
    last = sum;
  }
  return found;
}

// log2 of how far `found` is from what MPFR has, of itself; `least` of an absolute distance.
double share_lost(const Pair& found, const Real& right) {
  Real off(400);
  mpfr_sub_d(off.get(), right.get(), found.hi, MPFR_RNDN);
  mpfr_sub_d(off.get(), off.get(), found.lo, MPFR_RNDN);
  mpfr_div(off.get(), off.get(), right.get(), MPFR_RNDN);
  return mpfr_zero_p(off.get()) ? -1000 : std::log2(std::fabs(mpfr_get_d(off.get(), MPFR_RNDA)));
}
double distance(double found, const Real& right) {
  Real off(400);
  mpfr_sub_d(off.get(), right.get(), found, MPFR_RNDN);
  return std::fabs(mpfr_get_d(off.get(), MPFR_RNDN));
}

TEST(CudaRotary, AnglesAreWithinTheirBounds) {
  Random random(3);
  double pairs = -1000, near = 0, least = 1;
  for (int i = 0; i < 6000; ++i) {
    const auto f = static_cast<float>(std::ldexp(0.5 + 0.5 * random.uniform(), -static_cast<int>(random.below(33))));
    std::vector<std::int64_t> positions = {random.between(1, 4096), random.between(1, 2147483647)};
    if (i % 3 == 0) positions = near_quarters(i == 0 ? 1.0F : f);
    for (const std::int64_t position : positions) {
      Real angle(400), sine(400), cosine(400);
      mpfr_set_d(angle.get(), static_cast<double>(position), MPFR_RNDN);
      mpfr_mul_d(angle.get(), angle.get(), static_cast<double>(i == 0 ? 1.0F : f), MPFR_RNDN);
      mpfr_sin_cos(sine.get(), cosine.get(), angle.get(), MPFR_RNDN);
      const float own = i == 0 ? 1.0F : f;
      const Turn<Pair> of_pairs = turn_of(position, own);
      pairs = std::max({pairs, share_lost(of_pairs.sine, sine), share_lost(of_pairs.cosine, cosine)});
      const Turn<double> of_f64 = turn_near(position, static_cast<double>(own));
      near = std::max({near, distance(of_f64.sine, sine), distance(of_f64.cosine, cosine)});
      if (position != 1) {
        least = std::min(
            {least, std::fabs(mpfr_get_d(sine.get(), MPFR_RNDN)), std::fabs(mpfr_get_d(cosine.get(), MPFR_RNDN))});
      }
    }
  }
  EXPECT_LT(pairs, -98);
  EXPECT_LT(near, 0x1p-50);
  EXPECT_LT(least, 0x1p-40);  // such angles were among them
}

// Pairs alone, without the f64 before them; and sums that nearly cancel: b next to -a cos / sin.
TEST(CudaRotary, PairsDecideAllFamilies) {
  Random random(4);
  for (const Family family : families) {
    for (const DType type : dtypes) {
      for (int i = 0; i < 200; ++i) {
        const double x = test::draw(random, family, type);
        double y = test::draw(random, family, type);
        const std::int64_t position = random.between(1, i % 2 == 0 ? 4096 : 2147483647);
        const auto f =
            static_cast<float>(std::ldexp(0.5 + 0.5 * random.uniform(), -static_cast<int>(random.below(30))));
        if (i % 4 >= 2) {
          const Turn<double> turn = turn_near(position, static_cast<double>(f));
          const float opposed = round_once(-x * turn.cosine / turn.sine, static_cast<int>(type));
          if (std::isfinite(opposed)) y = static_cast<double>(opposed);
        }
        const double factor = i % 3 == 0 ? 1.0 : static_cast<double>(1.2079F);
        const double right = oracle::turned(factor, x, y, position, static_cast<double>(f), format_of(type));
        ASSERT_TRUE(same(static_cast<double>(turned(factor, x, y, position, f, static_cast<int>(type))), right))
            << name_of(family) << ' ' << dtype_name(type) << ' ' << x << ' ' << y << ' ' << position << ' ' << f;
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
