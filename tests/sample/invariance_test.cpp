// A draw depends on its own row and keys only, whatever the kernel and the threads: these are held against the oracle,
// the rest against one another; and it agrees with what score says of its id.
#include <gtest/gtest.h>

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "sample/draws.hpp"

namespace isologit::test {
namespace {

// A batch of rows with keys and cuts of their own.
struct Batch {
  oracle::DotData data;
  std::vector<float> temperatures, min_p, top_p;
  std::vector<std::uint64_t> seeds, sequences;
  std::vector<std::uint32_t> positions;
  std::vector<std::int64_t> top_k;
  Head head;
};

Batch make_batch(std::int64_t rows, std::int64_t vocab) {
  Batch batch;
  batch.data = oracle::make_dot({rows, vocab, 24, DType::bf16, DType::bf16, DType::bf16}, oracle::DotFamily::normal, 3);
  batch.head.weight = batch.data.weight_view();
  batch.head.bias = batch.data.bias_view();
  batch.head.vocab_size = vocab;
  oracle::Random random(4);
  for (std::int64_t i = 0; i < rows; ++i) {
    batch.seeds.push_back(random.next());
    batch.sequences.push_back(random.next());
    batch.positions.push_back(static_cast<std::uint32_t>(random.next()));
    batch.temperatures.push_back(i % 5 == 0 ? 0.0F : static_cast<float>(random.between(1, 40)) / 8);
    batch.min_p.push_back(i % 3 == 0 ? 0.0F : 0.01F);
    batch.top_k.push_back(i % 4 == 0 ? 0 : random.between(1, 60));
    batch.top_p.push_back(i % 2 == 0 ? 1.0F : 0.9F);
  }
  return batch;
}

struct Results {
  std::vector<std::int64_t> ids;
  std::vector<float> logprobs, cut_logprobs, log_kept_cut;
  bool operator==(const Results&) const = default;
};

template <class T>
std::vector<T> chosen(const std::vector<T>& values, const std::vector<std::int64_t>& rows) {
  std::vector<T> result;
  for (const std::int64_t row : rows) result.push_back(values[static_cast<std::size_t>(row)]);
  return result;
}

// The rows of the batch in the order given.
Results run(const Batch& batch, const std::vector<std::int64_t>& rows, const ScoreOptions& options = {}) {
  const auto cols = static_cast<std::size_t>(batch.data.shape.cols);
  std::vector<std::uint8_t> hidden;
  for (const std::int64_t row : rows) {
    const auto begin = batch.data.hidden.begin() + row * static_cast<std::int64_t>(2 * cols);
    hidden.insert(hidden.end(), begin, begin + static_cast<std::int64_t>(2 * cols));
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::size_t size = rows.size();
  Results results{std::vector<std::int64_t>(size), std::vector<float>(size), std::vector<float>(size),
                  std::vector<float>(size)};
  SampleRequest request;
  request.hidden = {hidden.data(), DType::bf16, count, batch.data.shape.cols, batch.data.shape.cols};
  const auto temperatures = chosen(batch.temperatures, rows);
  const auto seeds = chosen(batch.seeds, rows);
  const auto sequences = chosen(batch.sequences, rows);
  const auto positions = chosen(batch.positions, rows);
  const auto min_p = chosen(batch.min_p, rows);
  const auto top_k = chosen(batch.top_k, rows);
  const auto top_p = chosen(batch.top_p, rows);
  request.temperatures = temperatures;
  request.seeds = seeds;
  request.sequence_ids = sequences;
  request.positions = positions;
  request.min_p = min_p;
  request.top_k = top_k;
  request.top_p = top_p;
  request.ids = results.ids.data();
  request.logprobs = results.logprobs.data();
  request.cut_logprobs = results.cut_logprobs.data();
  request.log_kept_cut = results.log_kept_cut.data();
  const Result<SampleReport> report = sample(batch.head, request, options);
  EXPECT_TRUE(report) << report.error().message;
  return results;
}

std::vector<std::int64_t> first_rows(std::int64_t count) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(i);
  return rows;
}

TEST(Invariance, BatchComposition) {
  constexpr std::int64_t count = 150;
  const Batch batch = make_batch(count, 700);
  const Results together = run(batch, first_rows(count));
  std::vector<std::int64_t> shuffled;
  for (std::int64_t i = 0; i < count; ++i) shuffled.push_back(i * 77 % count);
  const Results other = run(batch, shuffled);
  for (std::size_t i = 0; i < shuffled.size(); ++i) {
    const auto row = static_cast<std::size_t>(shuffled[i]);
    EXPECT_EQ(other.ids[i], together.ids[row]);
    EXPECT_EQ(other.logprobs[i], together.logprobs[row]);
    EXPECT_EQ(other.cut_logprobs[i], together.cut_logprobs[row]);
    EXPECT_EQ(other.log_kept_cut[i], together.log_kept_cut[row]);
  }
  for (std::int64_t row = 0; row < count; row += 11) {
    const Results alone = run(batch, {row});
    const auto i = static_cast<std::size_t>(row);
    EXPECT_EQ(alone.ids[0], together.ids[i]);
    EXPECT_EQ(alone.logprobs[0], together.logprobs[i]);
    EXPECT_EQ(alone.cut_logprobs[0], together.cut_logprobs[i]);
    EXPECT_EQ(alone.log_kept_cut[0], together.log_kept_cut[i]);
  }
}

Results by_oracle(const Batch& batch) {
  Results results;
  const oracle::DotData& data = batch.data;
  for (std::int64_t row = 0; row < data.shape.rows; ++row) {
    const auto i = static_cast<std::size_t>(row);
    const float t = batch.temperatures[i];
    std::vector<float> z;
    for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
      const float logit = oracle::logit(data.hidden_row(row), data.weight_row(v), 24, data.bias_of(v));
      z.push_back(t == 0 ? logit : oracle::temperature(logit, t));
    }
    const oracle::Cuts cuts{batch.min_p[i], batch.top_k[i], batch.top_p[i]};
    const oracle::DrawKey key{batch.seeds[i], batch.sequences[i], batch.positions[i]};
    const oracle::Sample drawn = t == 0 ? oracle::sample_greedy(z, {}) : oracle::sample(z, {}, cuts, key);
    results.ids.push_back(drawn.id);
    results.logprobs.push_back(drawn.logprob);
    results.cut_logprobs.push_back(drawn.logprob_cut);
    results.log_kept_cut.push_back(drawn.log_kept_cut);
  }
  return results;
}

TEST(Invariance, KernelsAndThreads) {
  const Batch batch = make_batch(20, 300);
  const Results expected = by_oracle(batch);
  for (const std::string& kernel : runnable_kernels()) {
    for (const int threads : {1, 2, 7}) {
      ScoreOptions options;
      options.kernel = kernel;
      options.threads = threads;
      EXPECT_EQ(run(batch, first_rows(20), options), expected) << kernel << ' ' << threads;
    }
  }
}

TEST(Invariance, LogprobsAreScoresAndGreedyIsArgmax) {
  constexpr std::int64_t count = 60;
  Batch batch = make_batch(count, 500);
  const Results results = run(batch, first_rows(count));
  std::vector<float> at_one = batch.temperatures;
  for (float& t : at_one) t = t == 0 ? 1 : t;
  std::vector<float> logprobs(count);
  std::vector<std::int64_t> argmax(count);
  ScoreRequest request;
  request.hidden = batch.data.hidden_view();
  request.token_ids = results.ids;
  request.temperatures = at_one;
  request.logprobs = logprobs.data();
  request.argmax = argmax.data();
  ASSERT_TRUE(score(batch.head, request));
  EXPECT_EQ(results.logprobs, logprobs);
  for (std::size_t i = 0; i < count; i += 5) {
    EXPECT_EQ(results.ids[i], argmax[i]);
    EXPECT_EQ(results.cut_logprobs[i], logprobs[i]);
    EXPECT_EQ(results.log_kept_cut[i], 0);
  }
}

TEST(Invariance, IdsAloneAreTheSameIds) {
  const std::vector<float> logits = oracle::make_row(oracle::RowFamily::normal, 2000, 0);
  for (const oracle::Cuts& cuts : {oracle::Cuts{}, {0, 0, 0.9F}, {0.01F, 40, 0.7F}, {0, 1500, 1}}) {
    Plan plan{cuts, 1, {1, 2, 3}, 20, {}};
    const Result<Draws> all = draw(logits, plan);
    plan.floats = false;
    const Result<Draws> ids = draw(logits, plan);
    ASSERT_TRUE(all && ids);
    EXPECT_EQ(ids->ids, all->ids);
  }
}

}  // namespace
}  // namespace isologit::test
