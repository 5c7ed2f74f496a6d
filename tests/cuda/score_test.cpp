// Scores of the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/score.cuh"

#include <gtest/gtest.h>

#include <numeric>

#include "oracle/distribution.hpp"
#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;
using oracle::RowFamily;

constexpr std::int64_t kIgnored = -100;

struct Asked {
  isologit::Transforms transforms;
  std::vector<float> temperatures;  // none, one, or one a row
  std::vector<std::int64_t> ids;    // [rows, ids_per_row]
  int ids_per_row = 0;
  bool shape = true;
  int most_columns = 0;  // of a tile, and rows at a time, where not 0
  int most_rows = 0;
  std::vector<float> fast;  // the logits of fast arithmetic, where scores are of it
};

struct Scores {
  std::vector<float> logprobs, chosen_logits, lse, entropy, sum_p2;
  std::vector<std::int64_t> argmax;
  Status status;
};

Scores nothing_of(std::int64_t rows, int ids_per_row) {
  const auto n = static_cast<std::size_t>(rows), k = n * static_cast<std::size_t>(ids_per_row);
  return {std::vector<float>(k, -77),
          std::vector<float>(k, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          std::vector<std::int64_t>(n, -77),
          {0, 0}};
}

Transforms kernels_transforms(const Asked& asked) {
  const auto& t = asked.transforms;
  return {t.has_softcap ? t.softcap : 0.0F,
          static_cast<int>(t.scale_kind),
          t.scale,
          t.order == TransformOrder::scale_first,
          asked.temperatures.empty() ? nullptr : asked.temperatures.data(),
          asked.temperatures.size() == 1};
}

template <class Launcher>
Scores scores_by(Launcher& launcher, const oracle::DotData& data, const Asked& asked) {
  const LaidOut hidden(data.hidden_view(), {}), weight(data.weight_view(), {});
  const auto& shape = data.shape;
  Scores found = nothing_of(shape.rows, asked.ids_per_row);
  ScoreRequest r{hidden.operand(),
                 weight.operand(),
                 data.bias.empty() ? nullptr : data.bias.data(),
                 static_cast<int>(shape.bias.value_or(DType::bf16)),
                 shape.rows,
                 static_cast<int>(shape.vocab),
                 static_cast<int>(shape.cols),
                 kernels_transforms(asked),
                 asked.ids.empty() ? nullptr : asked.ids.data(),
                 asked.ids_per_row,
                 kIgnored,
                 found.logprobs.data(),
                 found.chosen_logits.data(),
                 found.lse.data(),
                 asked.shape ? found.entropy.data() : nullptr,
                 asked.shape ? found.sum_p2.data() : nullptr,
                 found.argmax.data(),
                 &found.status,
                 nullptr,
                 0,
                 !asked.fast.empty(),
                 nullptr};
  ScorePlan plan = score_plan(shape.rows, shape.cols, static_cast<int>(shape.hidden), static_cast<int>(shape.vocab),
                              asked.ids_per_row);
  if (asked.most_columns != 0) plan.tile_columns = std::min(plan.tile_columns, asked.most_columns);
  if (asked.most_rows != 0) plan.rows = std::min<std::int64_t>(plan.rows, asked.most_rows);
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(plan.bytes + 15) / 16);
  std::memset(static_cast<void*>(workspace.get()), 0xA5, static_cast<std::size_t>(plan.bytes));
  r.workspace = workspace.get();
  launch_score(launcher, r, asked.shape, plan, [&](const Product& p) {
    switch (r.weight.type) {
      case kBf16: launch_prepared<Launcher, Bf16>(launcher, p, r.hidden.type); break;
      case kF16: launch_prepared<Launcher, F16>(launcher, p, r.hidden.type); break;
      default: launch_prepared<Launcher, F32>(launcher, p, r.hidden.type); break;
    }
  });
  return found;
}

// The logits after all transforms, of one row.
std::vector<float> last_logits(const oracle::DotData& data, const Asked& asked, std::int64_t n) {
  const float t = asked.temperatures.empty()       ? 1.0F
                  : asked.temperatures.size() == 1 ? asked.temperatures[0]
                                                   : asked.temperatures[static_cast<std::size_t>(n)];
  std::vector<float> z;
  for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
    const float z0 = asked.fast.empty() ? oracle::logit(data.hidden_row(n), data.weight_row(v),
                                                        static_cast<std::size_t>(data.shape.cols), data.bias_of(v))
                                        : asked.fast[static_cast<std::size_t>(n * data.shape.vocab + v)];
    z.push_back(oracle::transform(z0, asked.transforms, t));
  }
  return z;
}

Scores scores_of_oracle(const oracle::DotData& data, const Asked& asked) {
  Scores want = nothing_of(data.shape.rows, asked.ids_per_row);
  const auto k = static_cast<std::size_t>(asked.ids_per_row);
  for (std::size_t n = 0; n < static_cast<std::size_t>(data.shape.rows); ++n) {
    const std::vector<float> z = last_logits(data, asked, static_cast<std::int64_t>(n));
    const oracle::Row row(z);
    const auto* ids = asked.ids.data() + n * k;
    const bool ignored = k > 0 && std::all_of(ids, ids + k, [](std::int64_t id) { return id == kIgnored; });
    want.lse[n] = ignored ? 0.0F : row.lse();
    if (asked.shape) {
      want.entropy[n] = ignored ? 0.0F : row.entropy();
      want.sum_p2[n] = ignored ? 0.0F : row.sum_p2();
    }
    want.argmax[n] = ignored ? 0 : row.argmax();
    for (std::size_t i = 0; i < k; ++i) {
      const bool none = ids[i] == kIgnored;
      want.logprobs[n * k + i] = none ? 0.0F : row.logprob(ids[i]);
      want.chosen_logits[n * k + i] = none ? 0.0F : z[static_cast<std::size_t>(ids[i])];
    }
  }
  return want;
}

void expect_same(const Scores& found, const Scores& want, const std::string& what) {
  EXPECT_EQ(count_different(found.logprobs, want.logprobs), 0) << what;
  EXPECT_EQ(count_different(found.chosen_logits, want.chosen_logits), 0) << what;
  EXPECT_EQ(count_different(found.lse, want.lse), 0) << what;
  EXPECT_EQ(count_different(found.entropy, want.entropy), 0) << what;
  EXPECT_EQ(count_different(found.sum_p2, want.sum_p2), 0) << what;
  EXPECT_EQ(found.argmax, want.argmax) << what;
  EXPECT_EQ(found.status.open, 0U) << what;
  EXPECT_EQ(found.status.wrong_ids, 0U) << what;
}

void expect_right(const oracle::DotData& data, const Asked& asked, const std::string& what) {
  HostLauncher<PlainProducts> launcher;
  expect_same(scores_by(launcher, data, asked), scores_of_oracle(data, asked), what);
}

// A head whose logits are those of a row: hidden is 1, the weight their column.
oracle::DotData head_of(const std::vector<float>& z) {
  oracle::DotData data;
  data.shape = {1, static_cast<std::int64_t>(z.size()), 1, DType::f32, DType::f32, {}};
  data.hidden_values = {1.0};
  data.weight_values.assign(z.begin(), z.end());
  const float one = 1.0F;
  data.hidden.resize(sizeof one);
  std::memcpy(data.hidden.data(), &one, sizeof one);
  data.weight.resize(z.size() * sizeof(float));
  std::memcpy(data.weight.data(), z.data(), data.weight.size());
  return data;
}

Asked all_ids(std::int64_t vocab) {
  Asked asked;
  asked.ids_per_row = static_cast<int>(vocab);
  asked.ids.resize(static_cast<std::size_t>(vocab));
  std::iota(asked.ids.begin(), asked.ids.end(), 0);
  return asked;
}

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

std::vector<std::int64_t> some_ids(std::int64_t rows, int each, std::int64_t vocab, std::uint64_t seed) {
  oracle::Random random(seed);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < rows * each; ++i) {
    ids.push_back(random.below(4) == 0 ? kIgnored
                                       : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(vocab))));
  }
  return ids;
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
  HostLauncher<PlainProducts> launcher;
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
    HostLauncher<PlainProducts> launcher;
    asked.fast = logits_by(launcher, data, {}, DType::f32, true);
    asked.most_rows = 64;
    expect_right(data, asked, "fast");
  }
}

TEST(CudaScore, IdsOutsideTheVocabularyAreCounted) {
  Asked asked;
  asked.ids_per_row = 4;
  asked.ids = {0, -1, 3, kIgnored};
  HostLauncher<PlainProducts> launcher;
  const Scores found = scores_by(launcher, head_of({1.0F, 2.0F, 3.0F}), asked);
  EXPECT_EQ(found.status.wrong_ids, 2U);
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
          const ScorePlan plan = score_plan(rows, depth, type, vocab, kMostIds);
          EXPECT_LE(plan.bytes, 256 << 20) << rows << ' ' << depth << ' ' << vocab;
          EXPECT_TRUE(plan.tile_columns == vocab || plan.tile_columns % kStretch == 0);
          EXPECT_TRUE(plan.rows == rows || plan.rows % kRowGroup == 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
