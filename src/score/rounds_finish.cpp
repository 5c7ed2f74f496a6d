// How a round ends: the special rows of CONTRACT.md 3 by its table, all others by what the sums prove.

#include <cmath>
#include <limits>
#include <utility>

#include "base/text.hpp"
#include "exact/rounding.hpp"
#include "fold/normalizer.hpp"
#include "fold/summary.hpp"
#include "score/logits_output.hpp"
#include "score/rounds.hpp"

namespace isologit::detail::score {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Stores a proven result; false when there is none.
bool store(float* output, std::int64_t i, const std::optional<float>& result) {
  if (output == nullptr) return true;
  if (result) output[i] = *result;
  return result.has_value();
}

}  // namespace

Rounds::ExactSums Rounds::empty_sums(const ScoredRow& row) const {
  ExactSums sums;
  const fold::Distribution* known[] = {&row.folds.kept, &row.folds.dropped, &row.folds.raw};
  for (std::size_t d = 0; d < sums.size(); ++d) {
    sums[d].sums.limbs = limbs_;
    // A distribution that is not ordinary has no sums to make.
    sums[d].wanted = known[d]->ordinary() && known[d]->summed;
    sums[d].top = known[d]->top;
    sums[d].top_id = known[d]->top_id;
  }
  return sums;
}

Result<bool> Rounds::finish_round() {
  if (phase_ == Phase::done) return true;
  merge_waiting();
  if (phase_ == Phase::targets) {
    for (const ScoredRow& row : rows_) {
      const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
      if (!row.captured[captured_at(row, id)].seen) {
        return fail(StatusCode::invalid_argument,
                    base::concat("finish_round: no shard held id ", id, " of row ", row.index));
      }
    }
    phase_ = Phase::first;
    return false;
  }
  if (phase_ == Phase::first) {
    for (const ScoredRow& row : rows_) {
      const std::int64_t absorbed = plan_.kept ? row.folds.kept.absorbed : row.folds.raw.absorbed;
      if ((plan_.kept || plan_.raw) && absorbed != vocab_size_) {
        return fail(StatusCode::invalid_argument,
                    base::concat("finish_round: the shards held ", absorbed, " ids of a vocabulary of ", vocab_size_));
      }
    }
  }
  std::vector<char> decided(rows_.size());
  for_each_row(0, rows_.size(), [&](std::size_t i) { decided[i] = static_cast<char>(finish_row(rows_[i])); });
  std::vector<ScoredRow> undecided;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (decided[i] == 0) undecided.push_back(std::move(rows_[i]));
  }
  if (phase_ == Phase::first) report_.undecided_rows = static_cast<std::int64_t>(undecided.size());
  begin_exact_round(std::move(undecided));
  return phase_ == Phase::done;
}

void Rounds::begin_exact_round(std::vector<ScoredRow> undecided) {
  rows_ = std::move(undecided);
  if (rows_.empty()) {
    phase_ = Phase::done;
    return;
  }
  limbs_ = phase_ == Phase::first ? 4 : 2 * limbs_;
  phase_ = Phase::exact;
  ++report_.rounds;
  for (ScoredRow& row : rows_) row.exact = empty_sums(row);
}

// What this round's sums prove of a distribution; nothing when f64 could not hold them, or where there are none.
std::optional<fold::Normalizer> Rounds::normalizer(const fold::Distribution& state,
                                                   const fold::ExactDistribution& exact) const {
  if (!state.ordinary() || !state.summed) return std::nullopt;
  fold::RelativeSums sums;
  if (phase_ == Phase::exact) {
    sums = exact.finish();
  } else if (!relative_sums(state, sums)) {
    return std::nullopt;
  }
  return fold::Normalizer(sums, state.top, state.above_minus_inf > 1, limbs_);
}

bool Rounds::finish_row(const ScoredRow& row) {
  const std::optional<fold::Normalizer> kept = normalizer(row.folds.kept, row.exact[0]);
  if (phase_ == Phase::first) {
    finish_ids(row);
    if (request_.mean_logits != nullptr) request_.mean_logits[row.index] = row.folds.mean->finish();
    if (request_.summaries != nullptr) {
      request_.summaries[row.index] = kept ? fold::summarize(row.folds.kept, kept->sums()) : RowSummary{};
    }
  }
  const bool kept_proven = finish_kept(row, kept);
  const bool log_kept_proven = finish_log_kept(row, kept);
  const bool raw_proven = finish_raw(row, kept);
  return kept_proven && log_kept_proven && raw_proven;
}

void Rounds::finish_ids(const ScoredRow& row) {
  const std::int64_t i = row.index;
  const fold::Distribution& kept = row.folds.kept;
  const bool has_nan = kept.first_nan >= 0;
  const bool nothing = !has_nan && kept.above_minus_inf == 0;
  if (request_.argmax != nullptr) request_.argmax[i] = has_nan ? kept.first_nan : nothing ? -1 : kept.top_id;
  if (request_.rank != nullptr) {
    const std::int64_t id = request_.token_ids[static_cast<std::size_t>(i)];
    request_.rank[i] = nothing ? -1 : has_nan || !support_.contains(i, id) ? 0 : row.folds.rank.before + 1;
  }
  if (request_.top_k_ids == nullptr) return;
  const std::vector<fold::Candidate> sorted = row.folds.top_k.sorted();
  for (std::int64_t k = 0; k < request_.top_k; ++k) {
    const bool there = !nothing && k < static_cast<std::int64_t>(sorted.size());
    request_.top_k_ids[i * request_.top_k + k] = there ? sorted[static_cast<std::size_t>(k)].id : -1;
  }
}

void Rounds::fill_floats(std::int64_t i, float lse, float others) {
  store(request_.lse, i, lse);
  for (float* output : {request_.logprobs, request_.entropy, request_.sum_p2}) store(output, i, others);
  for (std::int64_t k = 0; request_.ids_logprobs != nullptr && k < request_.ids_per_row; ++k) {
    const auto at = i * request_.ids_per_row + k;
    const bool ignored = request_.ids[static_cast<std::size_t>(at)] == request_.ignore_index;
    request_.ids_logprobs[at] = ignored ? 0.0F : others;
  }
  for (std::int64_t k = 0; request_.top_k_logprobs != nullptr && k < request_.top_k; ++k) {
    request_.top_k_logprobs[i * request_.top_k + k] = others;
  }
}

bool Rounds::finish_kept(const ScoredRow& row, const std::optional<fold::Normalizer>& known) {
  if (!plan_.kept_sums) return true;
  const std::int64_t i = row.index;
  const fold::Distribution& state = row.folds.kept;
  if (!state.ordinary()) {
    const bool infinite = state.first_nan < 0 && state.above_minus_inf > 0;
    const bool nothing = state.first_nan < 0 && state.above_minus_inf == 0;
    fill_floats(i, infinite ? kInfinity : nothing ? -kInfinity : exact::quiet_nan(), exact::quiet_nan());
    return true;
  }
  if (!known) return false;
  const auto logprob = [&](std::int64_t id) {
    return support_.contains(i, id) ? known->logprob(row.captured[captured_at(row, id)].logit)
                                    : std::optional(-kInfinity);
  };
  bool proven = true;
  if (request_.lse != nullptr) proven &= store(request_.lse, i, known->lse());
  if (request_.logprobs != nullptr) {
    proven &= store(request_.logprobs, i, logprob(request_.token_ids[static_cast<std::size_t>(i)]));
  }
  if (request_.entropy != nullptr) proven &= store(request_.entropy, i, known->entropy());
  if (request_.sum_p2 != nullptr) proven &= store(request_.sum_p2, i, known->sum_p2());
  for (std::int64_t k = 0; request_.ids_logprobs != nullptr && k < request_.ids_per_row; ++k) {
    const std::int64_t at = i * request_.ids_per_row + k;
    const std::int64_t id = request_.ids[static_cast<std::size_t>(at)];
    proven &= store(request_.ids_logprobs, at, id == request_.ignore_index ? std::optional(0.0F) : logprob(id));
  }
  if (request_.top_k_logprobs != nullptr) {
    const std::vector<fold::Candidate> sorted = row.folds.top_k.sorted();
    for (std::int64_t k = 0; k < request_.top_k; ++k) {
      const bool there = k < static_cast<std::int64_t>(sorted.size());
      proven &= store(request_.top_k_logprobs, i * request_.top_k + k,
                      there ? known->logprob(sorted[static_cast<std::size_t>(k)].logit) : std::optional(-kInfinity));
    }
  }
  return proven;
}

bool Rounds::finish_log_kept(const ScoredRow& row, const std::optional<fold::Normalizer>& of_kept) {
  if (request_.log_kept == nullptr) return true;
  const fold::Distribution& kept = row.folds.kept;
  const fold::Distribution& dropped = row.folds.dropped;
  const bool nothing_dropped = dropped.first_nan < 0 && dropped.above_minus_inf == 0;
  if (!kept.ordinary() || (!nothing_dropped && !dropped.ordinary())) {
    return store(request_.log_kept, row.index, exact::quiet_nan());
  }
  if (nothing_dropped) return store(request_.log_kept, row.index, 0.0F);
  const std::optional<fold::Normalizer> of_dropped = normalizer(dropped, row.exact[1]);
  return of_kept && of_dropped && store(request_.log_kept, row.index, of_kept->log_share(*of_dropped));
}

bool Rounds::finish_raw(const ScoredRow& row, const std::optional<fold::Normalizer>& of_kept) {
  if (request_.raw_logprobs == nullptr) return true;
  const fold::Distribution& state = plan_.raw ? row.folds.raw : row.folds.kept;
  if (!state.ordinary()) return store(request_.raw_logprobs, row.index, exact::quiet_nan());
  const std::optional<fold::Normalizer> known = plan_.raw ? normalizer(state, row.exact[2]) : of_kept;
  const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
  return known && store(request_.raw_logprobs, row.index, known->logprob(row.captured[captured_at(row, id)].raw));
}

void Rounds::store_ignored(std::int64_t i) {
  fill_floats(i, 0, 0);
  store(request_.raw_logprobs, i, 0.0F);
  store(request_.log_kept, i, 0.0F);
  store(request_.mean_logits, i, 0.0F);
  if (request_.argmax != nullptr) request_.argmax[i] = 0;
  if (request_.rank != nullptr) request_.rank[i] = 0;
  for (std::int64_t k = 0; request_.top_k_ids != nullptr && k < request_.top_k; ++k) {
    request_.top_k_ids[i * request_.top_k + k] = 0;
  }
  if (request_.logits.data != nullptr) write_zeros(request_.logits, i);
  if (request_.summaries != nullptr) request_.summaries[i] = {};
}

}  // namespace isologit::detail::score
