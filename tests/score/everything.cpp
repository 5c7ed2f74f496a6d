#include "score/everything.hpp"

#include <limits>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::testing_score {
namespace {

using oracle::bits_of;

std::vector<std::int64_t> random_ids(oracle::Random& random, std::int64_t vocab, std::uint64_t one_in) {
  std::vector<std::int64_t> ids;
  for (std::int64_t id = 0; id < vocab; ++id) {
    if (random.below(one_in) == 0) ids.push_back(id);
  }
  return ids;
}

}  // namespace

void Lists::add(const std::vector<std::int64_t>& row) {
  ids.insert(ids.end(), row.begin(), row.end());
  offsets.push_back(static_cast<std::int64_t>(ids.size()));
}

Case::Case(std::vector<float> z, std::uint64_t seed) : given(std::move(z)) {
  oracle::Random random(seed + 77);
  last_id = vocab();
  if (seed % 3 == 1) {
    first_id = random.between(0, vocab() - 1);
    last_id = random.between(first_id, vocab());
  }
  has_kept = seed % 4 == 2;
  has_banned = seed % 2 == 1;
  for (std::int64_t i = 0; i < rows; ++i) {
    token_ids.push_back(random.between(0, vocab() - 1));
    for (std::int64_t j = 0; j < per_row; ++j) {
      ids.push_back(random.below(9) == 0 ? -100 : random.between(0, vocab() - 1));
    }
    temperatures.push_back(i == 0 ? 1.0F : static_cast<float>(random.uniform() * 2 + 0.01));
    kept.add(random_ids(random, vocab(), 1 + random.below(4)));
    banned.add(random_ids(random, vocab(), 1 + random.below(5)));
  }
  if (seed % 5 >= 3) {
    for (std::int64_t i = 0; i < vocab() * (seed % 5 == 3 ? rows : 1); ++i) {
      stays.push_back(static_cast<std::uint8_t>(random.below(4) * 85));
    }
  }
}

ScoreRequest Case::request() const {
  ScoreRequest request;
  request.hidden = given.hidden(rows);
  request.token_ids = token_ids;
  request.temperatures = temperatures;
  request.ids_per_row = per_row;
  request.ids = ids;
  request.top_k = k;
  request.support.first_id = first_id;
  request.support.last_id = last_id;
  if (has_kept) request.support.kept = kept.view();
  if (has_banned) request.support.banned = banned.view();
  if (!stays.empty()) {
    request.support.mask = {stays.data(), static_cast<std::int64_t>(stays.size()) == vocab() ? 0 : vocab()};
  }
  return request;
}

std::vector<std::uint8_t> Case::mask(std::int64_t row) const {
  std::vector<std::uint8_t> mask(given.z().size(), has_kept ? 0 : 1);
  const auto mark = [&](const Lists& lists, std::uint8_t value) {
    const auto i = static_cast<std::size_t>(row);
    for (auto at = lists.offsets[i]; at < lists.offsets[i + 1]; ++at) {
      mask[static_cast<std::size_t>(lists.ids[static_cast<std::size_t>(at)])] = value;
    }
  };
  if (has_kept) mark(kept, 1);
  if (has_banned) mark(banned, 0);
  for (std::int64_t id = 0; id < vocab(); ++id) {
    const bool shared = static_cast<std::int64_t>(stays.size()) == vocab();
    const bool masked = !stays.empty() && stays[static_cast<std::size_t>((shared ? 0 : row * vocab()) + id)] == 0;
    if (id < first_id || id >= last_id || masked) mask[static_cast<std::size_t>(id)] = 0;
  }
  return mask;
}

Everything::Everything(const Case& tested) {
  const auto rows = static_cast<std::size_t>(tested.rows);
  for (auto* floats : {&logprobs, &raw_logprobs, &lse, &entropy, &sum_p2, &log_kept, &mean_logits}) {
    floats->assign(rows, 7);
  }
  ids_logprobs.assign(rows * static_cast<std::size_t>(tested.per_row), 7);
  top_k_logprobs.assign(rows * static_cast<std::size_t>(tested.k), 7);
  logits.assign(rows * tested.given.z().size(), 7);
  argmax.assign(rows, 7);
  rank.assign(rows, 7);
  top_k_ids.assign(rows * static_cast<std::size_t>(tested.k), 7);
}

void Everything::ask(ScoreRequest& request, unsigned which) {
  const auto asked = [&](unsigned output, auto& values) {
    return (which >> output & 1U) != 0 ? values.data() : nullptr;
  };
  request.logprobs = asked(0, logprobs);
  request.raw_logprobs = asked(1, raw_logprobs);
  request.lse = asked(2, lse);
  request.entropy = asked(3, entropy);
  request.sum_p2 = asked(4, sum_p2);
  request.log_kept = asked(5, log_kept);
  request.ids_logprobs = asked(6, ids_logprobs);
  request.top_k_logprobs = asked(7, top_k_logprobs);
  request.argmax = asked(8, argmax);
  request.rank = asked(9, rank);
  request.top_k_ids = asked(10, top_k_ids);
  const auto vocab = static_cast<std::int64_t>(logits.size() / lse.size());
  request.logits = {asked(11, logits), DType::f32, vocab, 0, vocab};
  request.mean_logits = asked(12, mean_logits);
}

Everything Everything::only(unsigned which, const Case& tested) const {
  Everything some(tested);
  const auto take = [&](unsigned output, const auto& from, auto& to) {
    if ((which >> output & 1U) != 0) to = from;
  };
  take(0, logprobs, some.logprobs);
  take(1, raw_logprobs, some.raw_logprobs);
  take(2, lse, some.lse);
  take(3, entropy, some.entropy);
  take(4, sum_p2, some.sum_p2);
  take(5, log_kept, some.log_kept);
  take(6, ids_logprobs, some.ids_logprobs);
  take(7, top_k_logprobs, some.top_k_logprobs);
  take(8, argmax, some.argmax);
  take(9, rank, some.rank);
  take(10, top_k_ids, some.top_k_ids);
  take(11, logits, some.logits);
  take(12, mean_logits, some.mean_logits);
  return some;
}

std::vector<std::uint32_t> Everything::bits() const {
  std::vector<std::uint32_t> all;
  for (const auto* floats : {&logprobs, &raw_logprobs, &lse, &entropy, &sum_p2, &log_kept, &ids_logprobs,
                             &top_k_logprobs, &logits, &mean_logits}) {
    for (const float x : *floats) all.push_back(bits_of(x));
  }
  for (const auto* ids : {&argmax, &rank, &top_k_ids}) {
    for (const std::int64_t id : *ids) all.push_back(static_cast<std::uint32_t>(id));
  }
  return all;
}

void expect_row_is_right(const Case& tested, const Everything& got, std::size_t i) {
  std::vector<float> z = tested.given.z();
  for (float& logit : z) logit = oracle::temperature(logit, tested.temperatures[i]);
  const auto mask = tested.mask(static_cast<std::int64_t>(i));
  const oracle::Row row(z, mask);
  const oracle::Row raw(tested.given.z());
  const std::int64_t id = tested.token_ids[i];
  EXPECT_EQ(bits_of(got.lse[i]), bits_of(row.lse()));
  EXPECT_EQ(bits_of(got.logprobs[i]), bits_of(row.logprob(id)));
  EXPECT_EQ(bits_of(got.raw_logprobs[i]), bits_of(raw.logprob(id)));
  EXPECT_EQ(bits_of(got.entropy[i]), bits_of(row.entropy()));
  EXPECT_EQ(bits_of(got.sum_p2[i]), bits_of(row.sum_p2()));
  EXPECT_EQ(bits_of(got.log_kept[i]), bits_of(row.log_kept())) << got.log_kept[i] << " for " << row.log_kept();
  EXPECT_EQ(bits_of(got.mean_logits[i]), bits_of(row.mean_logits()))
      << got.mean_logits[i] << " for " << row.mean_logits();
  EXPECT_EQ(got.argmax[i], row.argmax());
  EXPECT_EQ(got.rank[i], row.rank(id));
  for (std::size_t j = 0; j < static_cast<std::size_t>(tested.per_row); ++j) {
    const std::size_t at = i * static_cast<std::size_t>(tested.per_row) + j;
    const float expected = tested.ids[at] == -100 ? 0.0F : row.logprob(tested.ids[at]);
    EXPECT_EQ(bits_of(got.ids_logprobs[at]), bits_of(expected));
  }
  const auto order = row.top_k(tested.k);
  const bool ordinary = row.kind() == oracle::RowKind::ordinary;
  for (std::size_t j = 0; j < static_cast<std::size_t>(tested.k); ++j) {
    const std::size_t at = i * static_cast<std::size_t>(tested.k) + j;
    EXPECT_EQ(got.top_k_ids[at], order[j]);
    const float nothing = -std::numeric_limits<float>::infinity();
    const float expected = !ordinary ? oracle::quiet_nan() : order[j] == -1 ? nothing : row.logprob(order[j]);
    EXPECT_EQ(bits_of(got.top_k_logprobs[at]), bits_of(expected));
  }
  for (std::size_t v = 0; v < z.size(); ++v) EXPECT_EQ(bits_of(got.logits[i * z.size() + v]), bits_of(z[v]));
}

void expect_rows_are_right(const Case& tested, const Everything& got) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(tested.rows); ++i) expect_row_is_right(tested, got, i);
}

Everything score_everything(const Case& tested, const ScoreOptions& options) {
  Everything got(tested);
  ScoreRequest request = tested.request();
  got.ask(request);
  const auto report = score(tested.given.head(), request, options);
  EXPECT_TRUE(report.has_value()) << report.error().message;
  return got;
}

}  // namespace isologit::testing_score
