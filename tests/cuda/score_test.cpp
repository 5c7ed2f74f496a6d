// Scores of the CUDA kernels, compiled for the host, against the oracle: bits.
#include "scores.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;
using oracle::RowFamily;

// Every id's logprob, of rows that each provoke one kind of mistake.
TEST(CudaScore, EveryFamilyOfRows) {
  for (const auto family : oracle::row_families) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      const std::int64_t vocab = seed % 4 == 3 ? 1 : seed % 4 == 2 ? 2 : 70;
      expect_right(head_of(oracle::make_row(family, vocab, seed)), all_ids(vocab),
                   std::string(oracle::name_of(family)) + " seed " + std::to_string(seed));
    }
  }
}

// Rows of several stretches; the top in the first, the last, or several of them.
TEST(CudaScore, EveryFamilyOverStretches) {
  for (const auto family : oracle::row_families) {
    for (std::uint64_t seed = 20; seed < 22; ++seed) {
      auto z = oracle::make_row(family, 2 * kStretch + 300, seed);
      if (seed == 21) std::reverse(z.begin(), z.end());
      Asked asked;
      asked.ids_per_row = 5;
      asked.ids = {0, kStretch - 1, kStretch, 2 * kStretch + 299, 17};
      asked.most_columns = seed == 21 ? kStretch : 0;
      expect_right(head_of(z), asked, std::string(oracle::name_of(family)) + " seed " + std::to_string(seed));
    }
  }
}

// Rests that f64 cannot hold beside 1, below its least number, and so near a midpoint that their sign decides.
TEST(CudaScore, GapsOfAllSizes) {
  for (const float gap :
       {1e-30F, 0x1p-24F, 0.5F, 30.0F, 87.5F, 103.9F, 554.0F, 554.6F, 689.9F, 690.1F, 745.0F, 1e6F, 3e38F}) {
    for (const float top : {0.0F, 20.0F, 0x1.000002p20F, -40.0F, 0x1p-140F}) {
      const float low = top - gap;
      expect_right(head_of({low, top, low - 0x1p-16F}), all_ids(3),
                   std::to_string(gap) + " below " + std::to_string(top));
      expect_right(head_of({low, top, top}), all_ids(3), std::to_string(gap) + " below two " + std::to_string(top));
    }
  }
}

TEST(CudaScore, OfProductsOfEveryFamilyAndType) {
  for (const auto type : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto family : oracle::dot_families) {
      for (const std::int64_t rows : {3, 35}) {
        const auto data = oracle::make_dot({rows, 90, 72, type, type, DType::f32}, family, 41);
        Asked asked;
        asked.ids_per_row = 2;
        asked.ids = some_ids(rows, 2, 90, 42);
        expect_right(data, asked, describe(data.shape) + ' ' + std::string(oracle::name_of(family)));
      }
    }
  }
}

TEST(CudaScore, TransformsInBothOrders) {
  const auto data = oracle::make_dot({5, 60, 40}, DotFamily::normal, 43);
  for (const auto order : {TransformOrder::softcap_first, TransformOrder::scale_first}) {
    for (const auto kind : {ScaleKind::none, ScaleKind::multiply, ScaleKind::divide}) {
      for (const float cap : {0.0F, 1e-3F, 5.0F, 30.0F}) {
        for (const bool each : {false, true}) {
          Asked asked;
          asked.transforms = {cap != 0.0F, cap, kind, kind == ScaleKind::none ? 1.0F : -0.3F, order};
          if (kind == ScaleKind::divide) asked.transforms.scale = 3.0F;
          asked.temperatures = each ? std::vector<float>{0.7F, 1.0F, 3.0F, 1e-3F, 0.1F} : std::vector<float>{0.7F};
          asked.ids_per_row = 1;
          asked.ids = some_ids(5, 1, 60, 44);
          expect_right(data, asked, "cap " + std::to_string(cap) + " kind " + std::to_string(static_cast<int>(kind)));
        }
      }
    }
  }
}

TEST(CudaScore, SoftcapOfEverySize) {
  oracle::Random random(45);
  for (const float cap : {0x1p-149F, 0x1p-130F, 1e-3F, 1.0F, 30.0F, 0x1p40F, 0x1.fffffep127F}) {
    std::vector<float> z = {0.0F, -0.0F, HUGE_VALF, -HUGE_VALF, std::nanf(""), cap, -cap, 0x1p-149F, 0x1.fffffep127F};
    for (int i = 0; i < 400; ++i) {
      z.push_back(static_cast<float>(random.sign() * std::ldexp((1 + random.uniform()) * static_cast<double>(cap),
                                                                static_cast<int>(random.between(-30, 7)))));
      z.push_back(static_cast<float>(
          std::ldexp(random.sign() * (1 + random.uniform()), static_cast<int>(random.between(-149, 127)))));
    }
    for (const float x : z) {
      const float found = softcapped(x, cap) + 0.0F;
      const float want = oracle::softcap(x, cap);
      ASSERT_TRUE(std::isnan(want) ? found != found : oracle::bits_of(found) == oracle::bits_of(want))
          << std::hexfloat << x << " cap " << cap << " gives " << found << "; expected " << want;
    }
  }
}

// How much is made at a time changes no bit; neither does leaving entropy out.
TEST(CudaScore, OfAnyBlocks) {
  const auto data =
      oracle::make_dot({70, 2 * kStretch + 100, 8, DType::bf16, DType::bf16, DType::bf16}, DotFamily::outliers, 46);
  Asked asked;
  asked.temperatures.resize(70);
  for (std::size_t n = 0; n < 70; ++n) asked.temperatures[n] = 0.5F + static_cast<float>(n) * 0.01F;
  asked.ids_per_row = 3;
  asked.ids = some_ids(70, 3, data.shape.vocab, 47);
  HostLauncher launcher;
  Scores want = scores_by(launcher, data, asked);
  for (const int columns : {kStretch, 2 * kStretch}) {
    for (const int rows : {64, 70}) {
      asked.most_columns = columns;
      asked.most_rows = rows;
      expect_same(scores_by(launcher, data, asked), want, std::to_string(columns) + " by " + std::to_string(rows));
    }
  }
  asked.shape = false;
  std::fill(want.entropy.begin(), want.entropy.end(), -77.0F);
  std::fill(want.sum_p2.begin(), want.sum_p2.end(), -77.0F);
  expect_same(scores_by(launcher, data, asked), want, "without entropy");
}

// Of fast logits scores are as exact.
TEST(CudaScore, OfFastLogits) {
  for (const std::int64_t rows : {3, 20, 70}) {
    const auto data = oracle::make_dot({rows, 90, 136, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 28);
    Asked asked;
    asked.transforms = {true, 30.0F, ScaleKind::multiply, 0.3F};
    HostLauncher launcher;
    asked.fast = logits_by(launcher, data, {}, DType::f32, true);
    asked.most_rows = 64;
    expect_right(data, asked, "fast");
  }
}

// Of several ids a row those that are ignored say nothing of the row.
TEST(CudaScore, IgnoredIdsLeaveTheRow) {
  const auto data = oracle::make_dot({3, 40, 16}, DotFamily::normal, 48);
  Asked asked;
  asked.ids_per_row = 2;
  asked.ids = {kIgnored, kIgnored, 3, kIgnored, kIgnored, 7};
  for (const bool rows : {false, true}) {
    asked.ignores_rows = rows;
    expect_right(data, asked, rows ? "rows too" : "ids alone");
  }
}

TEST(CudaScore, IdsOutsideTheVocabularyAreCounted) {
  Asked asked;
  asked.ids_per_row = 4;
  asked.ids = {0, -1, 3, kIgnored};
  HostLauncher launcher;
  const Scores found = scores_by(launcher, head_of({1.0F, 2.0F, 3.0F}), asked);
  EXPECT_EQ(found.status.wrong, 2U);
  EXPECT_EQ(found.logprobs[3], 0.0F);
  EXPECT_TRUE(std::isnan(found.logprobs[1]) && std::isnan(found.logprobs[2]) && !std::isnan(found.logprobs[0]));
}

// What is left open is counted: here a rest whose error is too large for any bound.
TEST(CudaScore, WhatPairsLeaveOpenIsMarked) {
  const double midpoint = 1.0 + 0x1p-24;
  EXPECT_TRUE(is_open(certain({0.0, 0.0}, around({midpoint, 0.0}), 1.0)));
  EXPECT_TRUE(is_open(certain({0.0, 0.0}, around({midpoint, 0x1p-85}), 1.0)));
  EXPECT_EQ(certain({0.0, 0.0}, around({midpoint, 0x1p-80}), 1.0), 1.0F + 0x1p-23F);
  EXPECT_TRUE(is_open(certain({0.0, 0.0}, around(log_one_plus({bit_cast<double>(~std::uint64_t{0} >> 1), 0.0})), 1.0)));
}

// Whatever the rows, what a call needs stays below 256 MiB.
TEST(CudaScore, MemoryDoesNotGrow) {
  for (const std::int64_t rows : {1, 8, 64, 1000, 4096, 1000000}) {
    for (const std::int64_t depth : {64, 4096, 65536}) {
      for (const int vocab : {1, 32000, 151936, 4194240}) {
        for (const int type : {kBf16, kF32}) {
          ScoreRequest r = {};
          r.rows = rows;
          r.size = static_cast<int>(depth);
          r.hidden.type = type;
          r.vocab = vocab;
          r.ids_per_row = kMostIds;
          const ScorePlan plan = score_plan(r);
          EXPECT_LE(plan.bytes, 256 << 20) << rows << ' ' << depth << ' ' << vocab;
          EXPECT_TRUE(plan.tile_columns == vocab || plan.tile_columns % kStretch == 0);
          EXPECT_TRUE(plan.rows == rows || plan.rows % kRowGroup == 0);
          // Everything: whole rows, and sums of what a support drops.
          std::int64_t rank = 0;
          float log_kept = 0;
          std::uint8_t mask = 1;
          r.rank = &rank;
          r.log_kept = &log_kept;
          r.support.mask = &mask;
          const ScorePlan whole = score_plan(r);
          EXPECT_LE(whole.bytes, 256 << 20) << rows << ' ' << depth << ' ' << vocab;
          EXPECT_TRUE(whole.tile_columns == vocab && whole.rows >= 1);
        }
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
