// Samples of the CUDA kernels, compiled for the host, against the oracle: ids, and bits of logprobs.
#include "samples.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;
using oracle::RowFamily;

// min-p, top-k, top-p: none, one, all; exact boundaries among them.
const std::vector<oracle::Cuts> all_cuts = {
    {0, 0, 1},         {0.1F, 0, 1},         {1, 0, 1},           {0, 1, 1},    {0, 5, 1},        {0, 100000, 1},
    {0, 0, 0.5F},      {0, 0, 0.95F},        {0, 0, 0x1p-149F},   {0, 4, 0.5F}, {0.01F, 0, 0.9F}, {0.02F, 20, 0.75F},
    {0x1p-149F, 0, 1}, {0, 0, 1 - 0x1p-24F}, {1 - 0x1p-24F, 0, 1}};

Draws of_cuts(const oracle::Cuts& cuts) {
  Draws draws;
  draws.min_p = {cuts.min_p};
  draws.top_k = {cuts.top_k};
  draws.top_p = {cuts.top_p};
  return draws;
}
std::string text(const oracle::Cuts& cuts) {
  return " min_p " + std::to_string(cuts.min_p) + " top_k " + std::to_string(cuts.top_k) + " top_p " +
         std::to_string(cuts.top_p);
}

TEST(CudaSample, EveryFamilyOfRowsUnderEveryCut) {
  for (const auto family : oracle::row_families) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      for (const std::int64_t vocab : {1, 2, 33, 150}) {
        const auto data = head_of(oracle::make_row(family, vocab, seed));
        Asked asked;
        if (seed % 2 != 0) asked.mask = random_mask(static_cast<std::size_t>(vocab), seed);
        for (const auto& cuts : all_cuts) {
          Draws draws = of_cuts(cuts);
          draws.seeds = {seed * 0x9E3779B97F4A7C15U};
          draws.sequence_ids = {~seed};
          draws.positions = {0xFFFFFFFFU};
          expect_drawn(data, asked, draws,
                       std::string(oracle::name_of(family)) + " seed " + std::to_string(seed) + " vocab " +
                           std::to_string(vocab) + text(cuts));
        }
      }
    }
  }
}

// As many rows of these logits.
oracle::DotData rows_of(const std::vector<float>& z, std::int64_t rows) {
  oracle::DotData data = head_of(z);
  data.shape.rows = rows;
  data.hidden_values.assign(static_cast<std::size_t>(rows), 1.0);
  const std::vector<float> ones(static_cast<std::size_t>(rows), 1.0F);
  data.hidden.resize(ones.size() * sizeof(float));
  std::memcpy(data.hidden.data(), ones.data(), data.hidden.size());
  return data;
}

TEST(CudaSample, ManyDrawsOfOneRow) {
  const auto data = rows_of(oracle::make_row(RowFamily::normal, 100, 2), 200);
  for (const auto& cuts : {oracle::Cuts{}, {0, 30, 0.9F}}) {
    Draws draws = of_cuts(cuts);
    draws.positions.resize(200);
    std::iota(draws.positions.begin(), draws.positions.end(), 0U);
    expect_drawn(data, {}, draws, "positions");
    draws.seeds.clear();
    for (const std::uint32_t position : draws.positions) draws.seeds.push_back(position * 0x9E3779B97F4A7C15U);
    draws.sequence_ids.assign(draws.seeds.rbegin(), draws.seeds.rend());
    draws.positions = {5};
    expect_drawn(data, {}, draws, "seeds and sequences");
  }
}

// Without cuts, and with numbers of each row, some of which cut nothing; a temperature of 0 among them.
TEST(CudaSample, NumbersOfEachRow) {
  for (const auto family : {DotFamily::normal, DotFamily::signed_zeros, DotFamily::specials}) {
    const auto data = oracle::make_dot({7, 90, 40}, family, 51);
    for (int kind = 0; kind < 5; ++kind) {
      Asked asked;
      asked.transforms = {true, 8.0F, ScaleKind::multiply, 0.3F, TransformOrder::softcap_first};
      asked.temperatures = {0.7F, 0.0F, 1.0F, 1e-4F, 2.5F, 1e30F, 0.0F};
      if (kind == 0) asked.mask = random_mask(90, 53);
      if (kind == 1) asked.mask = random_mask(7 * 90, 57);
      if (kind == 2 || kind == 4) random_lists(asked.kept_offsets, asked.kept, 7, 90, 55);
      if (kind == 3 || kind == 4) random_lists(asked.banned_offsets, asked.banned, 7, 90, 56);
      Draws draws;
      draws.positions = {1, 2, 3, 4, 5, 6, 7};
      for (const int most_rows : {0, 3}) {
        asked.most_rows = most_rows;
        const std::string what = std::string(oracle::name_of(family)) + " kind " + std::to_string(kind);
        expect_drawn(data, asked, draws, what + " without cuts");
        Draws cut = draws;
        cut.top_k = {0, 1, 5, 40, 1000, 3, 2};
        expect_drawn(data, asked, cut, what + " with top-k");
        cut.min_p = {0.1F, 0.5F, 0.0F, 0.01F, 1.0F, 0.2F, 0.0F};
        cut.top_p = {0.9F};
        expect_drawn(data, asked, cut, what + " with all cuts");
      }
    }
  }
}

// What is cut and drawn of fast logits is as exact.
TEST(CudaSample, OfFastLogits) {
  const auto data = oracle::make_dot({7, 90, 40, DType::bf16, DType::bf16, {}}, DotFamily::normal, 58);
  HostLauncher launcher;
  Asked asked;
  asked.fast = logits_by(launcher, data, {}, DType::f32, true);
  expect_drawn(data, asked, of_cuts({0.01F, 30, 0.9F}), "fast");
}

TEST(CudaSample, RowsOfSeveralStretches) {
  for (const auto family : {RowFamily::normal, RowFamily::two_level, RowFamily::all_equal, RowFamily::top_ties,
                            RowFamily::midpoint_gap, RowFamily::subnormal, RowFamily::masked_like}) {
    const auto data = head_of(oracle::make_row(family, kStretch + 300, 3));
    for (const auto& cuts : {oracle::Cuts{}, {0, 0, 0.9F}, {0, 1500, 1}, {0, 2000, 0.97F}, {1e-6F, 0, 0.9999F}}) {
      expect_drawn(data, {}, of_cuts(cuts), std::string(oracle::name_of(family)) + text(cuts));
    }
  }
}

// Levels of every scale, of which keys agree in many bits; and numbers just above the top's neighbours.
TEST(CudaSample, TopPAmongLevelsOfEveryScale) {
  std::vector<float> z(1000), low(1000), near(1000);
  for (std::size_t i = 0; i < z.size(); ++i) {
    z[i] = std::ldexp(1.0F, -static_cast<int>(i * 37 % 149));
    low[i] = -std::ldexp(1.0F, static_cast<int>(i % 250) - 123);
    near[i] = 1.0F - 0x1p-24F * static_cast<float>(i * i % 64);
  }
  for (const auto& row : {z, low, near}) {
    for (const auto& cuts : {oracle::Cuts{0, 0, 0.5F}, {0, 0, 0.75F}, {0, 0, 0.95F}, {0, 333, 0.5F}, {0.9F, 0, 0.5F}}) {
      expect_drawn(head_of(row), {}, of_cuts(cuts), text(cuts));
    }
  }
}

// Half of four equal logits is two, and three if there is another id, however small its mass.
TEST(CudaSample, BalancesThatNoPrecisionSettles) {
  for (const float gap : {0x1p-30F, 1.0F, 200.0F}) {
    for (const auto& z : {std::vector<float>{1, 1, 1 - gap, 1, 1},
                          {1, 1, 1, 1},
                          {0, 0, -gap, 0, 0, -gap},
                          {0, -gap},
                          {0, -gap, -gap, -gap},
                          {0, -gap, -2 * gap, -3 * gap},
                          {-gap, 2 - gap, 0, -HUGE_VALF}}) {
      for (const float top_p : {0.5F, 0x1.000002p-1F, 0x1.fffffep-2F, 0.25F, 0.75F, 0x1p-23F, 0x1p-24F, 1 - 0x1p-24F}) {
        const oracle::Cuts cuts{0, 0, top_p};
        expect_drawn(head_of(z), {}, of_cuts(cuts), "gap " + std::to_string(gap) + text(cuts));
      }
    }
  }
}

// The same beyond what sums can hold, where the oracle has no answer: the third of four equal logits is kept for it.
TEST(CudaSample, BalancesAgainstNextToNothing) {
  HostLauncher launcher;
  for (const float gap : {650.0F, 700.0F, 1e6F, 1e30F}) {
    const Samples found = samples_by(launcher, head_of({1, 1, 1 - gap, 1, 1}), {}, of_cuts({0, 0, 0.5F}));
    const std::vector<float> three(3, 1.0F);
    EXPECT_EQ(found.cut_logprobs[0], oracle::Row(three).logprob(0)) << gap;
    EXPECT_EQ(found.status.open, 0U);
  }
}

TEST(CudaSample, MinPNextToItsLimit) {
  const float ln2 = 0.693147182464599609375F;  // the f32 number next above ln 2
  for (const auto& z : {std::vector<float>{0.0F, -ln2, -std::nextafter(ln2, 0.0F), -0.0F, -5.0F, -HUGE_VALF},
                        {3e38F, -3e38F, 3e38F},
                        {ln2, 0.0F, 0x1p-149F, -0x1p-149F, 0x1.05c61p-29F, 0x1.05c60ep-29F, 1e-9F},
                        {-1e9F, -1e9F - 64},
                        {0.0F, -0x1p-149F, 0x1p-149F}}) {
    for (const float min_p : {0.5F, 1.0F, 1 - 0x1p-24F, 0x1p-149F, 0.3F}) {
      expect_drawn(head_of(z), {}, of_cuts({min_p, 0, 1}), "min_p " + std::to_string(min_p));
    }
  }
}

// Equal first words of equal logits; numbers that f64 cannot tell apart, by a logit that takes up the difference.
TEST(CudaSample, DrawsThatAreNearlyEqual) {
  const oracle::DrawKey key{8, 8, 8};
  Draws draws;
  draws.seeds = draws.sequence_ids = {8};
  draws.positions = {8};
  std::vector<std::pair<double, std::size_t>> numbers;
  for (std::uint32_t v = 0; v < 3'000; ++v) {
    const oracle::Words words = oracle::words_of(key, v);
    const double u = (static_cast<double>(words.r1) + static_cast<double>(words.r2) * 0x1p-32) * 0x1p-32;
    if (u > 0.2 && u < 0.6) numbers.emplace_back(-std::log(-std::log(u)), v);
  }
  std::sort(numbers.begin(), numbers.end());
  int checked = 0;
  for (std::size_t i = 1; i < numbers.size() && checked < 20; ++i) {
    const double gap = numbers[i].first - numbers[i - 1].first;
    if (gap > 0x1p-16) continue;
    const std::size_t a = numbers[i - 1].second, b = numbers[i].second;
    std::vector<float> z(std::max(a, b) + 1, -HUGE_VALF);
    z[b] = 0;
    for (const float other : {static_cast<float>(gap), std::nextafter(static_cast<float>(gap), 1.0F)}) {
      z[a] = other;
      expect_drawn(head_of(z), {}, draws, "ids " + std::to_string(a) + " and " + std::to_string(b));
      ++checked;
    }
  }
  EXPECT_EQ(checked, 20);
}

}  // namespace
}  // namespace isologit::detail::cuda
