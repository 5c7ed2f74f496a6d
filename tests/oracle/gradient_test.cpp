// dz against finite differences at 1024 bits and against hand-worked boundaries; sums against hand-worked values.
#include "oracle/gradient.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "oracle/cases.hpp"
#include "oracle/interval.hpp"
#include "oracle/logit.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr mpfr_prec_t bits = 1024;
constexpr Transforms no_transforms{};

mpq_class step() {
  mpq_class h(1);
  mpq_div_2exp(h.get_mpq_t(), h.get_mpq_t(), 200);
  return h;
}

// (f(x + h) - f(x - h)) / 2h with h = 2^-200: wrong by about 2^-400 relative, far below what could turn a rounding.
Interval central_difference(const std::function<Interval(const Interval&)>& f, const mpq_class& x) {
  return (f(Interval(x + step(), bits)) - f(Interval(x - step(), bits))) / Interval(2 * step(), bits);
}

// The loss itself, as section 5 differentiates it, with the logit of one id replaced.
Interval loss(const std::vector<float>& z, const std::vector<std::uint8_t>& mask, const RowUpstream& upstream,
              std::size_t changed, const Interval& value) {
  std::vector<Interval> terms;  // z_v over S
  std::vector<std::size_t> ids;
  Interval mass(bits);
  for (std::size_t v = 0; v < z.size(); ++v) {
    if (mask[v] == 0) continue;
    terms.push_back(v == changed ? value : Interval(mpq_class(z[v]), bits));
    ids.push_back(v);
    mass = mass + exp(terms.back());
  }
  const Interval lse = log(mass);
  Interval entropy(bits);
  for (const Interval& term : terms) entropy = entropy - exp(term - lse) * (term - lse);
  Interval total = Interval(mpq_class(upstream.b), bits) * lse + Interval(mpq_class(upstream.c), bits) * entropy;
  for (std::size_t j = 0; j < upstream.ids.size(); ++j) {
    const Interval a(mpq_class(upstream.a[j]), bits);
    total = total - a * lse;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == static_cast<std::size_t>(upstream.ids[j])) total = total + a * terms[i];
    }
  }
  return total;
}

// The real transforms beside a logit z0: with the scale first, the softcap is at the f32 that z0 was scaled to.
Interval real_transforms(const Transforms& transforms, float t, float z0, const Interval& beside) {
  const Interval s(mpq_class(transforms.scale), bits);
  const auto scaled = [&](const Interval& z) {
    if (transforms.scale_kind == ScaleKind::multiply) return z * s;
    return transforms.scale_kind == ScaleKind::divide ? z / s : z;
  };
  const bool scale_first = transforms.order == TransformOrder::scale_first;
  Interval z = beside;
  if (scale_first) {
    const Interval at(mpq_class(z0), bits);
    const float rounded = transforms.scale_kind == ScaleKind::multiply ? scale_multiply(z0, transforms.scale)
                                                                       : scale_divide(z0, transforms.scale);
    z = Interval(mpq_class(rounded), bits) + scaled(beside - at);
  }
  if (transforms.has_softcap) {
    const Interval c(mpq_class(transforms.softcap), bits);
    z = c * tanh(z / c);
  }
  return (scale_first ? z : scaled(z)) / Interval(mpq_class(t), bits);
}

void expect_finite_differences(const std::vector<float>& z0, const std::vector<std::uint8_t>& mask,
                               const RowUpstream& upstream, const Transforms& transforms, float t) {
  const std::vector<float> dz = dz_of_row(z0, mask, upstream, transforms, t);
  std::vector<float> z;
  for (const float x : z0) z.push_back(transform(x, transforms, t));
  for (std::size_t v = 0; v < z0.size(); ++v) {
    if (mask[v] == 0) {
      EXPECT_EQ(bits_of(dz[v]), 0U);
      continue;
    }
    const Interval outer =
        central_difference([&](const Interval& x) { return loss(z, mask, upstream, v, x); }, mpq_class(z[v]));
    const Interval inner = central_difference(
        [&](const Interval& x) { return real_transforms(transforms, t, z0[v], x); }, mpq_class(z0[v]));
    const auto expected = round_sum(0, outer * inner, 0);
    ASSERT_TRUE(expected.has_value());
    EXPECT_EQ(dz[v], static_cast<float>(*expected)) << "id " << v;
  }
}

TEST(Dz, MatchesFiniteDifferences) {
  const Transforms all[] = {
      {},
      {true, 30.0F, ScaleKind::none, 1.0F},
      {false, 0.0F, ScaleKind::multiply, -0.37F},
      {true, 5.0F, ScaleKind::divide, 3.3F},
      {true, 5.0F, ScaleKind::divide, 3.3F, TransformOrder::scale_first},
      {true, 2.0F, ScaleKind::multiply, -0.37F, TransformOrder::scale_first},
  };
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed);
    const auto draw = [&] { return static_cast<float>(random.normal()); };
    const std::vector<float> z0 = make_row(seed % 3 == 0 ? RowFamily::top_ties : RowFamily::normal, 7, seed);
    std::vector<std::uint8_t> mask(7, 1);
    if (seed % 2 == 1) mask[2] = mask[5] = 0;
    // Id 3 twice; id 5 is masked out in half of the rows.
    const RowUpstream upstreams[] = {
        {{3, 5, 3}, {draw(), draw(), draw()}, 0.0F, 0.0F},
        {{1}, {draw()}, draw(), draw()},
        {{}, {}, 0.0F, draw()},
        {{}, {}, draw(), 0.0F},
    };
    for (const RowUpstream& upstream : upstreams) {
      for (const Transforms& transforms : all) {
        expect_finite_differences(z0, mask, upstream, transforms, seed % 2 == 0 ? 1.0F : 0.7F);
      }
    }
  }
}

TEST(Dz, EqualLogitsAreRational) {
  const std::vector<float> z(4, 3.0F);
  EXPECT_EQ(dz_of_row(z, {}, {{1}, {1.0F}, 0.0F, 0.0F}, no_transforms, 1.0F),
            (std::vector<float>{-0.25F, 0.75F, -0.25F, -0.25F}));
  EXPECT_EQ(dz_of_row(z, {}, {{}, {}, 2.0F, 5.0F}, no_transforms, 2.0F), std::vector<float>(4, 0.25F));
  EXPECT_EQ(dz_of_row({z.data(), 1}, {}, {{0}, {3.0F}, 0.0F, 1.0F}, no_transforms, 1.0F), std::vector<float>{0.0F});
  // a = b and c = 0: only the target is left.
  const std::vector<float> any{1.0F, 2.5F, -4.0F};
  EXPECT_EQ(dz_of_row(any, {}, {{1}, {0.3F}, 0.3F, 0.0F}, no_transforms, 1.0F), (std::vector<float>{0.0F, 0.3F, 0.0F}));
}

// a·s is a midpoint, and a probability of e^-1000 or e^-1000000, or a softcap's tanh² of 2^-200, decides.
TEST(Dz, VanishingTermsDecideMidpoints) {
  const Transforms times{false, 0.0F, ScaleKind::multiply, 1.5F};
  const float odd = 1.0F + 0x1p-23F;   // times 1.5: ties to 1.5 + 2^-22
  const float even = 1.0F + 0x3p-23F;  // times 1.5: ties to 1.5 + 2^-21
  for (const float far : {-1000.0F, -1e6F, -1e30F}) {
    const std::vector<float> z{0.0F, far};
    EXPECT_EQ(dz_of_row(z, {}, {{1}, {odd}, 0.0F, 0.0F}, times, 1.0F)[1], 1.5F + 0x1p-23F);
    EXPECT_EQ(dz_of_row(z, {}, {{1}, {odd}, odd, 0.0F}, times, 1.0F)[1], 1.5F + 0x1p-22F);  // the tie itself
    EXPECT_EQ(dz_of_row(z, {}, {{1}, {even}, 3.0F, 0.0F}, times, 1.0F)[1], 1.5F + 0x5p-23F);
    EXPECT_EQ(dz_of_row(z, {}, {{1}, {even}, even, 1.0F}, times, 1.0F)[1], 1.5F + 0x5p-23F);  // by c·d
    // At the top, b - a is the midpoint and the mass of the other one pulls towards 0, or entropy does.
    EXPECT_EQ(dz_of_row(z, {}, {{}, {}, odd, 0.0F}, times, 1.0F)[0], 1.5F + 0x1p-23F);
    EXPECT_EQ(dz_of_row(z, {}, {{0}, {odd}, odd, 1.0F}, times, 1.0F)[0], 1.5F + 0x1p-23F);
    EXPECT_EQ(dz_of_row(z, {}, {{0}, {even}, even, -1.0F}, times, 1.0F)[0], 1.5F + 0x5p-23F);
  }
  const Transforms capped{true, 1.0F, ScaleKind::multiply, 1.5F};
  const std::vector<float> tiny{0x1p-100F};
  EXPECT_EQ(dz_of_row(tiny, {}, {{}, {}, odd, 0.0F}, capped, 1.0F)[0], 1.5F + 0x1p-23F);
  EXPECT_EQ(dz_of_row(std::vector<float>{0.0F}, {}, {{}, {}, odd, 0.0F}, capped, 1.0F)[0], 1.5F + 0x1p-22F);
}

TEST(Dz, SmallProbabilitiesKeepRelativePrecision) {
  // mpmath: -exp(-40) / (1 + exp(-40)) and exp(-40) / (1 + exp(-40)) as f32.
  const std::vector<float> z{0.0F, -40.0F};
  const std::vector<float> dz = dz_of_row(z, {}, {{0}, {1.0F}, 0.0F, 0.0F}, no_transforms, 1.0F);
  EXPECT_EQ(bits_of(dz[0]), 0x229CBC92U);
  EXPECT_EQ(bits_of(dz[1]), 0xA29CBC92U);
  // Far past what a float can hold it is +0.
  const std::vector<float> far{0.0F, -1e6F};
  EXPECT_EQ(bits_of(dz_of_row(far, {}, {{0}, {1.0F}, 0.0F, 0.0F}, no_transforms, 1.0F)[1]), 0U);
}

TEST(Dz, SpecialRowsAndElements) {
  const RowUpstream upstream{{1}, {2.0F}, 0.0F, 1.0F};
  const RowUpstream zero{{1}, {0.0F}, 0.0F, 0.0F};
  const std::vector<std::uint8_t> mask{1, 1, 0};
  for (const std::vector<float>& z :
       {std::vector<float>{nan, 1.0F, 2.0F}, {infinity, 1.0F, 2.0F}, {-infinity, -infinity, 2.0F}}) {
    const std::vector<float> dz = dz_of_row(z, mask, upstream, no_transforms, 1.0F);
    EXPECT_EQ(bits_of(dz[0]), 0x7FC00000U);
    EXPECT_EQ(bits_of(dz[1]), 0x7FC00000U);
    EXPECT_EQ(bits_of(dz[2]), 0U);
    EXPECT_EQ(dz_of_row(z, mask, zero, no_transforms, 1.0F), std::vector<float>(3, 0.0F));
  }
  // -inf: p = 0, so only a target's own a is left; saturated softcaps pass nothing on.
  const std::vector<float> z{0.0F, -infinity, 1.0F};
  EXPECT_EQ(dz_of_row(z, {}, upstream, no_transforms, 2.0F)[1], 1.0F);
  const Transforms capped{true, 30.0F, ScaleKind::none, 1.0F};
  const std::vector<float> ends{-infinity, infinity, 3e38F, 1.0F};
  const std::vector<float> dz = dz_of_row(ends, {}, upstream, capped, 1.0F);
  for (const std::size_t v : {0U, 1U, 2U}) EXPECT_EQ(bits_of(dz[v]), 0U);
  EXPECT_NE(dz[3], 0.0F);
}

TEST(Dz, OfLogits) {
  const Transforms divided{false, 0.0F, ScaleKind::divide, 3.0F};
  const std::vector<float> z{1.0F, 2.0F};
  EXPECT_EQ(dz_of_logits(z, std::vector<float>{1.0F, -2.0F}, divided, 7.0F),
            (std::vector<float>{1.0F / 21.0F, -2.0F / 21.0F}));
  // mpmath: 1 - tanh(1)^2 = 0.41997434161402606939...
  const Transforms capped{true, 2.0F, ScaleKind::none, 1.0F};
  EXPECT_EQ(dz_of_logits(std::vector<float>{2.0F}, std::vector<float>{1.0F}, capped, 1.0F)[0],
            static_cast<float>(0.41997434161402606939));
  EXPECT_EQ(dz_of_logits(std::vector<float>{nan, 1.0F}, std::vector<float>{0.0F, 0.0F}, capped, 1.0F),
            std::vector<float>(2, 0.0F));
}

TEST(GradientSums, AreDotProductsRoundedOnce) {
  // Two rows, two tokens, three columns; 2^-24 beside 1 would be lost in any f32 sum.
  const std::vector<float> dz{1.0F, 0x1p-24F, 2.0F, -0x1p-149F};
  const GradientSums sums{dz, 2, 2, {}};
  const std::vector<double> weight{1, 2, 3, 1, 4, -4};
  EXPECT_EQ(dhidden(sums, weight, 3), (std::vector<float>{1.0F, 2.0F + 0x1p-22F, 3.0F - 0x1p-22F, 2.0F, 4.0F, 6.0F}));
  const std::vector<double> hidden{1, 0, 5, 0x1p-25, 1, -2.5};
  EXPECT_EQ(dweight(sums, hidden, 3), (std::vector<float>{1.0F, 2.0F, 0.0F, 0x1p-24F, -0x1p-149F, 0x5p-24F}));
  EXPECT_EQ(dbias(sums), (std::vector<float>{3.0F, 0x1p-24F}));
}

TEST(GradientSums, AddIntoABufferWithOneRounding) {
  const std::vector<float> dz{0x1p-8F, 0x1p-40F};
  const GradientSums sums{dz, 2, 1, {}};
  EXPECT_EQ(dbias(sums, {{1.0}, DType::bf16}), std::vector<float>{1.0F + 0x1p-7F});
  EXPECT_EQ(dbias({{dz.data(), 1}, 1, 1, {}}, {{1.0}, DType::bf16}), std::vector<float>{1.0F});
}

TEST(GradientSums, SkippedRowsContributeNothingWhateverTheyHold) {
  const std::vector<float> dz{1.0F, 0.0F};
  const std::vector<double> hidden{3.0, std::numeric_limits<double>::infinity()};
  EXPECT_TRUE(std::isnan(dweight({dz, 2, 1, {}}, hidden, 1)[0]));
  EXPECT_EQ(dweight({dz, 2, 1, {0, 1}}, hidden, 1), std::vector<float>{3.0F});
  EXPECT_EQ(dhidden({dz, 2, 1, {0, 1}}, std::vector<double>{2.0}, 1), (std::vector<float>{2.0F, 0.0F}));
  EXPECT_EQ(dweight({dz, 2, 1, {1, 1}}, hidden, 1), std::vector<float>{0.0F});
}

TEST(MeanLoss, IsOneRounding) {
  EXPECT_EQ(mean_loss(std::vector<float>{-1.0F, -2.0F, -2.0F}), 5.0F / 3.0F);
  EXPECT_EQ(mean_loss(std::vector<float>{-0x1p30F, -1.0F}), 0x1p29F);
  EXPECT_EQ(mean_loss(std::vector<float>{-1.0F, -infinity}), infinity);
  EXPECT_EQ(bits_of(mean_loss(std::vector<float>{-1.0F, nan})), 0x7FC00000U);
  EXPECT_EQ(mean_loss_upstream(1.0F, 3), -1.0F / 3.0F);
}

}  // namespace
}  // namespace isologit::oracle
