// Samples of the CUDA kernels on the host, and those of the oracle.
#pragma once

#include "cuda/sample.cuh"
#include "oracle/sample.hpp"
#include "scores.hpp"

namespace isologit::detail::cuda {

// Each a number for all rows or one a row; of the cuts also none. What is drawn from is in an Asked.
struct Draws {
  std::vector<std::uint64_t> seeds{7}, sequence_ids{11};
  std::vector<std::uint32_t> positions{13};
  std::vector<float> min_p;
  std::vector<std::int64_t> top_k;
  std::vector<float> top_p;
};
template <class T>
PerRow<T> per_row(const std::vector<T>& x) {
  return {x.empty() ? nullptr : x.data(), x.size() == 1};
}
template <class T>
T number_of(const std::vector<T>& x, std::size_t row, T otherwise) {
  return x.empty() ? otherwise : x[x.size() == 1 ? 0 : row];
}

struct Samples {
  std::vector<std::int64_t> ids;
  std::vector<float> logprobs, cut_logprobs, log_kept_cut;
  Status status;
};
inline Samples no_samples(std::int64_t rows) {
  const auto n = static_cast<std::size_t>(rows);
  return {std::vector<std::int64_t>(n, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          std::vector<float>(n, -77),
          {0, 0}};
}

inline Samples samples_by(HostLauncher& launcher, const oracle::DotData& data, const Asked& asked, const Draws& draws) {
  const LaidOut hidden(data.hidden_view(), {}), weight(data.weight_view(), {});
  const auto& shape = data.shape;
  Samples found = no_samples(shape.rows);
  SampleRequest r{operands_of(data, hidden, weight),
                  kernels_transforms(asked),
                  per_row(asked.temperatures),
                  per_row(draws.seeds),
                  per_row(draws.sequence_ids),
                  per_row(draws.positions),
                  per_row(draws.min_p),
                  per_row(draws.top_k),
                  per_row(draws.top_p),
                  kernels_support(asked, shape.vocab),
                  found.ids.data(),
                  found.logprobs.data(),
                  found.cut_logprobs.data(),
                  found.log_kept_cut.data(),
                  &found.status,
                  !asked.fast.empty(),
                  nullptr};
  SamplePlan plan = sample_plan(r);
  if (asked.most_rows != 0) plan.rows = std::min<std::int64_t>(plan.rows, asked.most_rows);
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(plan.bytes + 15) / 16);
  std::memset(static_cast<void*>(workspace.get()), 0xA5, static_cast<std::size_t>(plan.bytes));
  r.workspace = workspace.get();
  launch_sample(launcher, r, plan,
                [&](const Product& p) { launch_prepared_of(r.weight.type, launcher, p, r.hidden.type); });
  return found;
}

inline Samples samples_of_oracle(const oracle::DotData& data, const Asked& asked, const Draws& draws) {
  Samples want = no_samples(data.shape.rows);
  Asked warm = asked;
  for (float& t : warm.temperatures) t = t == 0 ? 1.0F : t;
  for (std::size_t n = 0; n < want.ids.size(); ++n) {
    const std::vector<float> z = last_logits(data, warm, static_cast<std::int64_t>(n));
    const std::vector<std::uint8_t> stays = support_of_row(asked, data.shape.vocab, n);
    const oracle::Cuts cuts{number_of(draws.min_p, n, 0.0F), number_of<std::int64_t>(draws.top_k, n, 0),
                            number_of(draws.top_p, n, 1.0F)};
    const oracle::DrawKey key{number_of<std::uint64_t>(draws.seeds, n, 0),
                              number_of<std::uint64_t>(draws.sequence_ids, n, 0),
                              number_of<std::uint32_t>(draws.positions, n, 0)};
    const oracle::Sample sample = number_of(asked.temperatures, n, 1.0F) == 0 ? oracle::sample_greedy(z, stays)
                                                                              : oracle::sample(z, stays, cuts, key);
    want.ids[n] = sample.id;
    want.logprobs[n] = sample.logprob;
    want.cut_logprobs[n] = sample.logprob_cut;
    want.log_kept_cut[n] = sample.log_kept_cut;
  }
  return want;
}

inline void expect_drawn(const oracle::DotData& data, const Asked& asked, const Draws& draws, const std::string& what) {
  HostLauncher launcher;
  const Samples found = samples_by(launcher, data, asked, draws);
  const Samples want = samples_of_oracle(data, asked, draws);
  EXPECT_EQ(found.ids, want.ids) << what;
  EXPECT_EQ(count_different(found.logprobs, want.logprobs), 0) << what;
  EXPECT_EQ(count_different(found.cut_logprobs, want.cut_logprobs), 0) << what;
  EXPECT_EQ(count_different(found.log_kept_cut, want.log_kept_cut), 0) << what;
  EXPECT_EQ(found.status.open, 0U) << what;
}

}  // namespace isologit::detail::cuda
