// Scores of the CUDA kernels on the host, and those of the oracle.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "cuda/score.cuh"
#include "oracle/distribution.hpp"
#include "problem.hpp"

namespace isologit::detail::cuda {
inline constexpr std::int64_t kIgnored = -100;

struct Asked {
  isologit::Transforms transforms;
  std::vector<float> temperatures;  // none, one, or one a row
  std::vector<std::int64_t> ids;    // [rows, ids_per_row]
  int ids_per_row = 0;
  bool ignores_rows = true;
  bool shape = true;
  std::vector<std::uint8_t> mask;  // [vocab] or [rows, vocab]; none: all
  std::vector<std::int64_t> kept_offsets, kept, banned_offsets, banned;
  bool rank = false;
  bool log_kept = false;
  int top_k = 0;
  int most_columns = 0;  // of a tile, and rows at a time, where not 0
  int most_rows = 0;
  std::vector<float> fast;  // the logits of fast arithmetic, where scores are of it
};

struct Scores {
  std::vector<float> logprobs, chosen_logits, lse, entropy, sum_p2;
  std::vector<std::int64_t> argmax;
  std::vector<float> log_kept;
  std::vector<std::int64_t> rank, top_k_ids;
  std::vector<float> top_k_logprobs;
  Status status;
};

inline Scores nothing_of(std::int64_t rows, int ids_per_row, int top_k) {
  const auto n = static_cast<std::size_t>(rows), k = n * static_cast<std::size_t>(ids_per_row);
  const std::size_t top = n * static_cast<std::size_t>(top_k);
  return {std::vector<float>(k, -77),
          std::vector<float>(k, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          std::vector<std::int64_t>(n, -77),
          std::vector<float>(n, -77),
          std::vector<std::int64_t>(k, -77),
          std::vector<std::int64_t>(top, -77),
          std::vector<float>(top, -77),
          {0, 0}};
}

inline Transforms kernels_transforms(const Asked& asked) {
  const auto& t = asked.transforms;
  return {t.has_softcap ? t.softcap : 0.0F,
          static_cast<int>(t.scale_kind),
          t.scale,
          t.order == TransformOrder::scale_first,
          asked.temperatures.empty() ? nullptr : asked.temperatures.data(),
          asked.temperatures.size() == 1};
}

inline Support kernels_support(const Asked& asked, std::int64_t vocab) {
  const auto data = [](const std::vector<std::int64_t>& x) { return x.empty() ? nullptr : x.data(); };
  return {asked.mask.empty() ? nullptr : asked.mask.data(),
          asked.mask.size() == static_cast<std::size_t>(vocab) ? 0 : vocab,
          {data(asked.kept_offsets), asked.kept.data()},
          {data(asked.banned_offsets), asked.banned.data()}};
}

// One byte for each id of a row, not 0 where it is in the support.
inline std::vector<std::uint8_t> support_of_row(const Asked& asked, std::int64_t vocab, std::size_t n) {
  const auto size = static_cast<std::size_t>(vocab);
  std::vector<std::uint8_t> stays(size, asked.kept_offsets.empty() ? 1 : 0);
  const auto mark = [&](const auto& offsets, const auto& ids, std::uint8_t value) {
    if (offsets.empty()) return;
    for (auto i = offsets[n]; i < offsets[n + 1]; ++i)
      stays[static_cast<std::size_t>(ids[static_cast<std::size_t>(i)])] = value;
  };
  mark(asked.kept_offsets, asked.kept, std::uint8_t{1});
  mark(asked.banned_offsets, asked.banned, std::uint8_t{0});
  if (asked.mask.empty()) return stays;
  const auto* mask = asked.mask.data() + (asked.mask.size() == size ? 0 : n * size);
  for (std::size_t v = 0; v < size; ++v) stays[v] = stays[v] != 0 && mask[v] != 0 ? 1 : 0;
  return stays;
}

inline Scores scores_by(HostLauncher& launcher, const oracle::DotData& data, const Asked& asked) {
  const LaidOut hidden(data.hidden_view(), {}), weight(data.weight_view(), {});
  const auto& shape = data.shape;
  Scores found = nothing_of(shape.rows, asked.ids_per_row, asked.top_k);
  ScoreRequest r{operands_of(data, hidden, weight),
                 kernels_transforms(asked),
                 asked.ids.empty() ? nullptr : asked.ids.data(),
                 asked.ids_per_row,
                 kIgnored,
                 asked.ignores_rows,
                 found.logprobs.data(),
                 found.chosen_logits.data(),
                 found.lse.data(),
                 asked.shape ? found.entropy.data() : nullptr,
                 asked.shape ? found.sum_p2.data() : nullptr,
                 found.argmax.data(),
                 asked.log_kept ? found.log_kept.data() : nullptr,
                 asked.rank ? found.rank.data() : nullptr,
                 asked.top_k,
                 found.top_k_ids.data(),
                 found.top_k_logprobs.data(),
                 kernels_support(asked, shape.vocab),
                 &found.status,
                 nullptr,
                 0,
                 !asked.fast.empty(),
                 nullptr};
  ScorePlan plan = score_plan(r);
  if (asked.most_columns != 0) plan.tile_columns = std::min(plan.tile_columns, asked.most_columns);
  if (asked.most_rows != 0) plan.rows = std::min<std::int64_t>(plan.rows, asked.most_rows);
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(plan.bytes + 15) / 16);
  std::memset(static_cast<void*>(workspace.get()), 0xA5, static_cast<std::size_t>(plan.bytes));
  r.workspace = workspace.get();
  launch_score(launcher, r, asked.shape, plan,
               [&](const Product& p) { launch_prepared_of(r.weight.type, launcher, p, r.hidden.type); });
  return found;
}

// The logits after all transforms, of one row.
inline std::vector<float> last_logits(const oracle::DotData& data, const Asked& asked, std::int64_t n) {
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

// Into `want` what top-k of a row is.
inline void expect_top_k(Scores& want, const oracle::Row& row, std::size_t n, int top_k, bool ignored) {
  const std::vector<std::int64_t> ids = row.top_k(top_k);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::size_t at = n * ids.size() + i;
    want.top_k_ids[at] = ignored ? 0 : ids[i];
    const float past = row.kind() == oracle::RowKind::ordinary ? -HUGE_VALF : std::nanf("");
    want.top_k_logprobs[at] = ignored ? 0.0F : ids[i] < 0 ? past : row.logprob(ids[i]);
  }
}

inline Scores scores_of_oracle(const oracle::DotData& data, const Asked& asked) {
  Scores want = nothing_of(data.shape.rows, asked.ids_per_row, asked.top_k);
  const auto k = static_cast<std::size_t>(asked.ids_per_row);
  for (std::size_t n = 0; n < static_cast<std::size_t>(data.shape.rows); ++n) {
    const std::vector<float> z = last_logits(data, asked, static_cast<std::int64_t>(n));
    const std::vector<std::uint8_t> stays = support_of_row(asked, data.shape.vocab, n);
    const oracle::Row row(z, stays);
    const auto* ids = asked.ids.data() + n * k;
    const bool ignored =
        asked.ignores_rows && k > 0 && std::all_of(ids, ids + k, [](std::int64_t id) { return id == kIgnored; });
    want.lse[n] = ignored ? 0.0F : row.lse();
    if (asked.shape) {
      want.entropy[n] = ignored ? 0.0F : row.entropy();
      want.sum_p2[n] = ignored ? 0.0F : row.sum_p2();
    }
    want.argmax[n] = ignored ? 0 : row.argmax();
    for (std::size_t i = 0; i < k; ++i) {
      const bool none = ids[i] == kIgnored;
      want.logprobs[n * k + i] = none ? 0.0F : row.logprob(ids[i]);
      want.chosen_logits[n * k + i] = none                     ? 0.0F
                                      : row.in_support(ids[i]) ? z[static_cast<std::size_t>(ids[i])]
                                                               : -HUGE_VALF;
      if (asked.rank) want.rank[n * k + i] = none ? 0 : row.rank(ids[i]);
    }
    if (asked.log_kept) want.log_kept[n] = ignored ? 0.0F : row.log_kept();
    if (asked.top_k != 0) expect_top_k(want, row, n, asked.top_k, ignored);
  }
  return want;
}

inline void expect_same(const Scores& found, const Scores& want, const std::string& what) {
  EXPECT_EQ(count_different(found.logprobs, want.logprobs), 0) << what;
  EXPECT_EQ(count_different(found.chosen_logits, want.chosen_logits), 0) << what;
  EXPECT_EQ(count_different(found.lse, want.lse), 0) << what;
  EXPECT_EQ(count_different(found.entropy, want.entropy), 0) << what;
  EXPECT_EQ(count_different(found.sum_p2, want.sum_p2), 0) << what;
  EXPECT_EQ(found.argmax, want.argmax) << what;
  EXPECT_EQ(count_different(found.log_kept, want.log_kept), 0) << what;
  EXPECT_EQ(found.rank, want.rank) << what;
  EXPECT_EQ(found.top_k_ids, want.top_k_ids) << what;
  EXPECT_EQ(count_different(found.top_k_logprobs, want.top_k_logprobs), 0) << what;
  EXPECT_EQ(found.status.open, 0U) << what;
  EXPECT_EQ(found.status.wrong, 0U) << what;
}

inline void expect_right(const oracle::DotData& data, const Asked& asked, const std::string& what) {
  HostLauncher launcher;
  expect_same(scores_by(launcher, data, asked), scores_of_oracle(data, asked), what);
}

// A head whose logits are those of a row: hidden is 1, the weight their column.
inline oracle::DotData head_of(const std::vector<float>& z) {
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

inline Asked all_ids(std::int64_t vocab) {
  Asked asked;
  asked.ids_per_row = static_cast<int>(vocab);
  asked.ids.resize(static_cast<std::size_t>(vocab));
  std::iota(asked.ids.begin(), asked.ids.end(), 0);
  return asked;
}

inline std::vector<std::int64_t> some_ids(std::int64_t rows, int each, std::int64_t vocab, std::uint64_t seed) {
  oracle::Random random(seed);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < rows * each; ++i) {
    ids.push_back(random.below(4) == 0 ? kIgnored
                                       : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(vocab))));
  }
  return ids;
}

inline std::vector<std::uint8_t> random_mask(std::size_t size, std::uint64_t seed) {
  oracle::Random random(seed);
  std::vector<std::uint8_t> mask(size);
  const std::uint64_t of = std::array<std::uint64_t, 4>{2, 8, 1, 30}[seed % 4];
  for (auto& stays : mask) stays = random.below(of) == 0 ? 0 : static_cast<std::uint8_t>(1 + random.below(255));
  return mask;
}

// Ascending ids of each row, of which some rows have none.
inline void random_lists(std::vector<std::int64_t>& offsets, std::vector<std::int64_t>& ids, std::int64_t rows,
                         std::int64_t vocab, std::uint64_t seed) {
  oracle::Random random(seed);
  offsets.assign(1, 0);
  ids.clear();
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::uint64_t of = 1 + random.below(6);
    for (std::int64_t v = 0; v < vocab && n % 3 != 2; ++v) {
      if (random.below(of) == 0) ids.push_back(v);
    }
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
}

}  // namespace isologit::detail::cuda
