// A vocabulary that is split gives the oracle's bits: over blocks in one process, and over parties that exchange
// states.
#include <algorithm>
#include <optional>

#include "isologit/partial.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/everything.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kTopK = 7;

struct Results {
  std::vector<float> logprobs, entropy, log_kept, top_k_logprobs;
  std::vector<std::int64_t> rank, top_k_ids;

  Results()
      : logprobs(kRows),
        entropy(kRows),
        log_kept(kRows),
        top_k_logprobs(kRows * kTopK),
        rank(kRows),
        top_k_ids(kRows * kTopK) {}
  void ask(ScoreRequest& request) {
    request.logprobs = logprobs.data();
    request.entropy = entropy.data();
    request.log_kept = log_kept.data();
    request.rank = rank.data();
    request.top_k = kTopK;
    request.top_k_ids = top_k_ids.data();
    request.top_k_logprobs = top_k_logprobs.data();
  }
  bool operator==(const Results& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                        [](float x, float y) { return oracle::bits_of(x) == oracle::bits_of(y); });
    };
    return same(logprobs, other.logprobs) && same(entropy, other.entropy) && same(log_kept, other.log_kept) &&
           same(top_k_logprobs, other.top_k_logprobs) && rank == other.rank && top_k_ids == other.top_k_ids;
  }
};

class Shards : public KernelTest {
 protected:
  // Rows 3 and 4 have logits beyond 2^20, so there is an exact round.
  void SetUp() override {
    data_ = oracle::make_dot({kRows, vocab_, 40, DType::bf16, DType::bf16, DType::f32}, oracle::DotFamily::normal, 5);
    for (std::size_t i = static_cast<std::size_t>(3 * 40 * 2); i < data_.hidden.size(); i += 2) {
      data_.hidden[i + 1] = static_cast<std::uint8_t>(data_.hidden[i + 1] ^ 0x0CU);  // other exponents
    }
    for (std::size_t n = 0; n < kRows; ++n) {
      hidden_.push_back(oracle::decode_all(DType::bf16, data_.hidden.data() + n * 40 * 2, 40));
    }
    ids_ = {0, vocab_ - 1, 3, 11, 12};
    head_ = {data_.weight_view(), data_.bias_view(), vocab_, {}};
    request_.hidden = data_.hidden_view();
    request_.token_ids = ids_;
    request_.support.first_id = 3;
    request_.support.last_id = vocab_ - 2;
  }

  Shard shard(std::int64_t first, std::int64_t last) const {
    Shard shard{head_, first};
    shard.head.weight.data = data_.weight.data() + first * 40 * 2;
    shard.head.weight.rows = last - first;
    shard.head.bias.data = data_.bias.data() + first * 4;
    shard.head.bias.size = last - first;
    shard.head.vocab_size = last - first;
    return shard;
  }

  // By the oracle.
  Results expected() const {
    Results results;
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(vocab_), 0);
    std::fill(mask.begin() + request_.support.first_id, mask.begin() + request_.support.last_id, std::uint8_t{1});
    for (std::size_t n = 0; n < kRows; ++n) {
      const auto i = static_cast<std::int64_t>(n);
      std::vector<float> z;
      for (std::int64_t v = 0; v < vocab_; ++v) {
        z.push_back(oracle::logit(hidden_[n].data(), data_.weight_row(v), 40, data_.bias_of(v)));
      }
      const oracle::Row row(z, mask);
      results.logprobs[n] = row.logprob(ids_[n]);
      results.entropy[n] = row.entropy();
      results.log_kept[n] = row.log_kept();
      results.rank[n] = row.rank(ids_[n]);
      const std::vector<std::int64_t> order = row.top_k(kTopK);
      std::copy(order.begin(), order.end(), results.top_k_ids.begin() + i * kTopK);
      std::transform(order.begin(), order.end(), results.top_k_logprobs.begin() + i * kTopK,
                     [&](std::int64_t id) { return row.logprob(id); });
    }
    return results;
  }

  PartialScore begin(Results& results) {
    ScoreRequest request = request_;
    results.ask(request);
    auto partial = PartialScore::begin(vocab_, 40, {}, request, options());
    EXPECT_TRUE(partial.has_value()) << partial.error().message;
    return std::move(*partial);
  }

  std::int64_t vocab_ = 100;
  oracle::DotData data_;
  std::vector<std::vector<double>> hidden_;  // decoded anew
  std::vector<std::int64_t> ids_;
  Head head_;
  ScoreRequest request_;
};

const std::vector<std::vector<std::int64_t>> kSplits = {
    {0, 100}, {0, 50, 100}, {0, 1, 99, 100}, {0, 12, 25, 37, 50, 62, 75, 88, 100}, {0, 0, 3, 3, 97, 100}};

TEST_P(Shards, OfOneProcess) {
  const Results expected = this->expected();
  for (const auto& split : kSplits) {
    Results results;
    PartialScore partial = begin(results);
    for (;;) {
      for (std::size_t s = split.size() - 1; s > 0; --s) {
        const auto absorbed = partial.absorb(shard(split[s - 1], split[s]));
        ASSERT_TRUE(absorbed.has_value()) << absorbed.error().message;
      }
      const auto finished = partial.finish_round();
      ASSERT_TRUE(finished.has_value()) << finished.error().message;
      if (*finished) break;
    }
    EXPECT_GE(partial.report().rounds, 2);
    EXPECT_TRUE(results == expected) << split.size() - 1 << " shards";
  }
}

TEST_P(Shards, OfPartiesThatExchangeStates) {
  const Results expected = this->expected();
  for (const auto& split : kSplits) {
    const std::size_t parties = split.size() - 1;
    std::vector<Results> results(parties);
    std::vector<PartialScore> partials;
    for (std::size_t p = 0; p < parties; ++p) partials.push_back(begin(results[p]));
    for (bool finished = false; !finished;) {
      std::vector<std::vector<std::byte>> states;
      for (std::size_t p = 0; p < parties; ++p) {
        ASSERT_TRUE(partials[p].absorb(shard(split[p], split[p + 1])).has_value());
        states.push_back(*partials[p].state());
      }
      // Each party merges the others in an order of its own.
      for (std::size_t p = 0; p < parties; ++p) {
        for (std::size_t other = 1; other < parties; ++other) {
          const std::size_t q = p % 2 == 0 ? (p + other) % parties : (p + parties - other) % parties;
          const auto merged = partials[p].merge(states[q]);
          ASSERT_TRUE(merged.has_value()) << merged.error().message;
        }
      }
      for (std::size_t p = 0; p < parties; ++p) {
        const auto result = partials[p].finish_round();
        ASSERT_TRUE(result.has_value()) << result.error().message;
        finished = *result;
      }
    }
    for (const Results& of_party : results) EXPECT_TRUE(of_party == expected);
  }
}

// Every output of rows with supports, ids and temperatures, the second time with logits beyond 2^20: the parties'
// states come to a collector, which holds no shard, in an order of their own, and to each other; all have the oracle's
// results.
TEST_P(Shards, EveryOutputInAnyOrderOfMerges) {
  oracle::Random random(9);
  for (std::uint64_t seed = 0; seed < (is_reference() ? 4 : 12); ++seed) {
    std::vector<float> z = oracle::make_row(oracle::row_families[seed], is_reference() ? 20 : 90, seed);
    if (seed % 2 == 1) z[7] = z[3] = 0x1.1p20F;
    const Case tested(z, seed);
    const std::vector<std::size_t> counts = {1, 2, 3, 8};
    const std::size_t parties = counts[seed % 4];
    std::vector<std::int64_t> bounds = {0, tested.vocab()};
    while (bounds.size() <= parties) bounds.push_back(random.between(0, tested.vocab()));
    std::sort(bounds.begin(), bounds.end());
    std::vector<Everything> results(parties + 1, Everything(tested));
    std::vector<PartialScore> partials;
    for (Everything& result : results) {
      ScoreRequest request = tested.request();
      result.ask(request, Everything::kAll - (1U << 11));  // logits are written where their shard is
      auto partial = PartialScore::begin(tested.vocab(), 1, {}, request, options());
      ASSERT_TRUE(partial.has_value()) << partial.error().message;
      partials.push_back(std::move(*partial));
    }
    for (bool finished = false; !finished;) {
      std::vector<std::vector<std::byte>> states;
      for (std::size_t p = 0; p < parties; ++p) {
        Shard part{tested.given.head(), bounds[p]};
        part.head.weight.data = tested.given.z().data() + bounds[p];
        part.head.weight.rows = part.head.vocab_size = bounds[p + 1] - bounds[p];
        ASSERT_TRUE(partials[p].absorb(part).has_value());
        states.push_back(*partials[p].state());
      }
      for (std::size_t p = 0; p <= parties; ++p) {
        std::vector<std::size_t> others;
        for (std::size_t q = 0; q < parties; ++q) {
          if (q != p) others.push_back(q);
        }
        for (std::size_t i = others.size(); i > 1; --i) std::swap(others[i - 1], others[random.below(i)]);
        for (const std::size_t q : others) ASSERT_TRUE(partials[p].merge(states[q]).has_value());
      }
      for (std::size_t p = 0; p <= parties; ++p) {
        const auto result = partials[p].finish_round();
        ASSERT_TRUE(result.has_value()) << result.error().message;
        ASSERT_EQ(p == 0 || finished == *result, true) << "parties do not agree";
        finished = *result;
      }
    }
    for (Everything& result : results) {
      for (std::size_t i = 0; i < result.logits.size(); ++i) {
        result.logits[i] = oracle::temperature(z[i % z.size()], tested.temperatures[i / z.size()]);
      }
      expect_rows_are_right(tested, result);
    }
    ASSERT_FALSE(HasFailure()) << "seed " << seed << " parties " << parties;
  }
}

TEST_P(Shards, AMissingShardIsAnError) {
  Results results;
  PartialScore partial = begin(results);
  ASSERT_TRUE(partial.absorb(shard(0, 50)).has_value());
  const auto targets = partial.finish_round();
  ASSERT_FALSE(targets.has_value());
  EXPECT_EQ(targets.error().message, "finish_round: no shard held id 99 of row 1");
  request_.token_ids = {};
  Results other;
  ScoreRequest request = request_;
  request.lse = other.logprobs.data();
  auto no_targets = PartialScore::begin(vocab_, 40, {}, request, options());
  ASSERT_TRUE(no_targets.has_value());
  ASSERT_TRUE(no_targets->absorb(shard(0, 50)).has_value());
  const auto finished = no_targets->finish_round();
  ASSERT_FALSE(finished.has_value());
  EXPECT_EQ(finished.error().message, "finish_round: the shards held 50 ids of a vocabulary of 100");
  // Logprobs without temperature have sums of their own.
  const float two = 2;
  request_.token_ids = ids_;
  request = request_;
  request.temperatures = {&two, 1};
  request.raw_logprobs = other.logprobs.data();
  auto raw = PartialScore::begin(vocab_, 40, {}, request, options());
  ASSERT_TRUE(raw.has_value());
  ASSERT_TRUE(raw->absorb(shard(50, 100)).has_value());
  const auto raw_finished = raw->finish_round();
  ASSERT_FALSE(raw_finished.has_value());
  EXPECT_EQ(raw_finished.error().message, "finish_round: the shards held 50 ids of a vocabulary of 100");
}

// A state that was cut or changed is refused, or merged as numbers; it neither crashes nor reads beyond its end.
TEST_P(Shards, DamagedStates) {
  if (is_reference()) GTEST_SKIP() << "the states are the same for every kernel, and the reference is slow";
  Results results;
  PartialScore partial = begin(results);
  const auto refused = [&](const std::vector<std::byte>& state) { return !partial.merge(state).has_value(); };
  EXPECT_TRUE(refused({}));
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(partial.absorb(shard(0, 100)).has_value());
    std::vector<std::byte> state = *partial.state();
    for (std::size_t size = 0; size < state.size(); size += 1 + size / 50) {
      EXPECT_TRUE(refused({state.begin(), state.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
    }
    state.push_back(std::byte{0});
    EXPECT_TRUE(refused(state));
    state.pop_back();
    ASSERT_TRUE(partial.finish_round().has_value());
    EXPECT_TRUE(refused(state)) << "of an earlier round";
  }
  // Changed bytes of the first round with sums, into a party that is thrown away.
  Results other;
  PartialScore victim = begin(other);
  ASSERT_TRUE(victim.absorb(shard(0, 100)).has_value());
  ASSERT_TRUE(victim.finish_round().has_value());
  ASSERT_TRUE(victim.absorb(shard(0, 100)).has_value());
  const std::vector<std::byte> good = *victim.state();
  oracle::Random random(3);
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bad = good;
    bad[random.below(bad.size())] ^= static_cast<std::byte>(1 + random.below(255));
    static_cast<void>(victim.merge(bad));
  }
  static_cast<void>(victim.finish_round());
}

ISOLOGIT_FOR_EACH_KERNEL(Shards);

}  // namespace
}  // namespace isologit::testing_score
