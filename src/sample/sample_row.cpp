#include "sample/sample_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/asking.hpp"
#include "exact/elementary.hpp"
#include "fold/normalizer.hpp"

namespace isologit::detail::sample {
namespace {

using exact::Ball;

// A first guess for the search: top-p rarely keeps what is this far below the end of the list.
constexpr float kFirstReach = 24;

fold::Candidate after(const fold::Candidate& place) { return {place.logit, place.id + 1}; }
fold::Candidate just_before(const fold::Candidate& place) { return {place.logit, place.id - 1}; }
fold::Candidate earlier(const fold::Candidate& a, const fold::Candidate& b) { return fold::before(a, b) ? a : b; }

// What follows after the top: ties and others without the top itself.
Ball rest_of(const Part& part, std::size_t limbs) {
  return exact::subtract(mass(part, limbs), Ball::exact(1), limbs + 1);
}

}  // namespace

SampleRow::SampleRow(const kernels::Draw& draw, const Cuts& cuts, bool greedy, const Wanted& wanted)
    : cuts_(greedy ? Cuts{} : cuts), greedy_(greedy), wanted_(wanted), contenders_(draw) {
  plan_.draw = draw;
}

std::int64_t SampleRow::listed() const {
  if (!cuts_.any()) return 0;
  return cuts_.top_k > 0 ? std::min(cuts_.top_k, kMostListed) : kMostListed;
}

bool SampleRow::special(const fold::Distribution& support) {
  if (support.ordinary()) return false;
  const float nan = exact::quiet_nan();
  const std::int64_t first = support.above_minus_inf == 0 ? -1 : support.top_id;
  results_ = {support.first_nan >= 0 ? support.first_nan : first, nan, nan, nan, kEnd};
  return true;
}

void SampleRow::survey(const fold::Distribution& support, const std::vector<fold::Candidate>& list,
                       const Contenders& contenders) {
  plan_.kind = PassPlan::Kind::done;
  if (special(support)) return;
  plan_.top = support.top;
  finite_ = support.above_minus_inf;
  surveyed_ = true;
  fold::RelativeSums sums;
  const bool summed = support.summed && fold::relative_sums(support, sums);
  if (listed() == 0) {
    plan_.from = after(kEnd);
    plan_.to = plan_.limit = kEnd;
    if (greedy_) {
      results_.id = support.top_id;
      picked_logit_ = support.top;
      picked_ = true;
    } else {
      contenders_ = contenders;
    }
    finish({{finite_, 1, sums.rest}, {}, {}, summed}, 0);
    return;
  }
  window_ = list;
  std::erase_if(window_, [](const fold::Candidate& one) { return std::isinf(one.logit); });
  plan_.from = window_.front();
  plan_.to = window_.back();
  plan_.limit = cuts_.min_p > 0 ? fold::Candidate{min_p_limit(support.top, cuts_.min_p), kLastId} : kEnd;
  if (cuts_.top_k > 0 && cuts_.top_k < finite_) rank_ = cuts_.top_k;
  place_limit(0);
  settle(survey_parts(summed ? &sums : nullptr));
}

// What the list leaves of S, by subtraction.
SampleRow::Parts SampleRow::survey_parts(const fold::RelativeSums* sums) const {
  Parts parts;
  const auto listed_count = static_cast<std::int64_t>(window_.size());
  if (listed_count == finite_) {
    parts.known = true;
    return parts;
  }
  // Logits equal to the top beyond the list would have to be counted.
  if (sums == nullptr || window_.back().logit == plan_.top) return parts;
  PartSum sum;
  for (const fold::Candidate& one : window_) sum.add(term_of(plan_.top, one.logit, 0));
  constexpr std::size_t kLimbs = 3;
  const Part rest{finite_ - listed_count, 0, exact::subtract(sums->rest, rest_of(sum.part(), kLimbs), kLimbs)};
  if (!fold::before(plan_.to, plan_.limit)) {
    parts.outside = rest;
    parts.known = true;
  } else if (!fold::before(plan_.limit, kEnd)) {
    parts.middle = rest;
    parts.known = true;
  }
  return parts;
}

void SampleRow::advance(const SamplePass& pass) {
  surveyed_ = false;
  if (plan_.kind == PassPlan::Kind::search) {
    end_search(pass);
    return;
  }
  if (plan_.lists) {
    window_ = pass.list_;
    std::sort(window_.begin(), window_.end(), fold::before);
  }
  if (plan_.draws) contenders_ = pass.contenders_;
  settle({pass.inside_.part(), pass.middle_.part(), pass.outside_.part(), true});
}

Part SampleRow::window_part(std::size_t begin, std::size_t end) const {
  PartSum sum(plan_.limbs);
  for (std::size_t i = begin; i < end; ++i) sum.add(terms_[i]);
  return sum.part();
}

// Finds where the cuts end and draws, or asks for another pass.
void SampleRow::settle(const Parts& known) {
  Parts parts = known;
  terms_.clear();
  for (const fold::Candidate& one : window_) {
    base::go_on_or_throw();
    terms_.push_back(term_of(plan_.top, one.logit, plan_.limbs));
  }
  if (!place_limit(parts.inside.count)) return search_after_stretch(false);
  const bool within = !fold::before(plan_.to, plan_.limit) || (parts.known && parts.middle.count == 0);
  if (!fold::before(plan_.to, plan_.limit)) {
    parts.outside = join(parts.outside, parts.middle, plan_.limbs);
    parts.middle = {};
  }
  const auto last = std::upper_bound(window_.begin(), window_.end(), plan_.limit, fold::before);
  std::size_t kept = static_cast<std::size_t>(last - window_.begin());
  if (cuts_.top_p < 1) {
    if (!place_top_p(parts, kept, within, kept)) return;
  } else if (!within) {
    return split_at_limit();
  }
  finish(parts, kept);
}

// The end of top-k, `inside` of the order being before the window. Returns whether it is known.
bool SampleRow::place_limit(std::int64_t inside) {
  if (rank_ == 0) return true;
  const std::int64_t in_window = rank_ - inside;
  if (in_window <= static_cast<std::int64_t>(window_.size())) {
    plan_.limit = earlier(plan_.limit, window_[static_cast<std::size_t>(in_window - 1)]);
    rank_ = 0;
  } else if (!fold::before(plan_.to, plan_.limit)) {
    rank_ = 0;  // min-p keeps fewer
  }
  return rank_ == 0;
}

// The end of top-p, among the first `limited` of the window if min-p and top-k end there (within). Returns whether it
// was found; if not, the plan says how to go on.
bool SampleRow::place_top_p(const Parts& parts, std::size_t limited, bool within, std::size_t& kept) {
  if (!within && !parts.known) {
    widen();
    return false;
  }
  const auto reaches_at = [&](std::size_t n) {
    const Part prefix = join(parts.inside, window_part(0, n), plan_.limbs);
    const Part beyond = join(window_part(n, limited), parts.middle, plan_.limbs);
    return reaches(prefix, beyond, cuts_.top_p, plan_.limbs);
  };
  if (!too_short_ && parts.inside.count > 0 && reaches_at(0) >= 0) {
    search_from_top();
    return false;
  }
  std::size_t low = 1;
  std::size_t high = limited + 1;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (middle <= limited && reaches_at(middle) < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low > limited) {
    search_after_stretch(true);
    return false;
  }
  if (reaches_at(low) == 0) {
    widen();
    return false;
  }
  kept = low;
  return true;
}

void SampleRow::finish(const Parts& parts, std::size_t kept) {
  if (!picked_) {
    for (std::size_t i = 0; i < kept; ++i) contenders_.offer(window_[i].logit, window_[i].id);
    const Pick pick = contenders_.pick();
    results_.id = pick.id;
    picked_logit_ = pick.logit;
    picked_ = true;
  }
  results_.cut_end = kept > 0 ? window_[kept - 1] : just_before(plan_.from);
  plan_.draws = false;
  plan_.lists = false;
  if (!wanted_.any() || (parts.known && finish_floats(parts, kept))) {
    plan_.kind = PassPlan::Kind::done;
    return;
  }
  widen();
}

bool SampleRow::finish_floats(const Parts& parts, std::size_t kept) {
  const std::size_t limbs = std::max<std::size_t>(plan_.limbs, 3);
  const Part cut = join(parts.inside, window_part(0, kept), limbs);
  const Part dropped = join(join(window_part(kept, window_.size()), parts.middle, limbs), parts.outside, limbs);
  const Ball cut_rest = rest_of(cut, limbs);
  const Ball lost = mass(dropped, limbs);
  const auto settle = [](std::optional<float> rounded, float& result) {
    if (rounded) result = *rounded;
    return rounded.has_value();
  };
  if (wanted_.logprob) {
    const fold::Normalizer support({exact::add(cut_rest, lost, limbs), {}, {}}, plan_.top, finite_ > 1, limbs);
    if (!settle(support.logprob(picked_logit_), results_.logprob)) return false;
  }
  if (wanted_.cut_logprob) {
    const fold::Normalizer kept_only({cut_rest, {}, {}}, plan_.top, cut.count > 1, limbs);
    if (!settle(kept_only.logprob(picked_logit_), results_.cut_logprob)) return false;
  }
  results_.log_kept_cut = 0;
  if (wanted_.log_kept_cut && dropped.count > 0) {
    // ln (cut / (cut + lost)) = -ln (1 + lost / cut)
    const Ball whole = exact::add(Ball::exact(1), cut_rest, limbs + 1);
    const Ball ratio = exact::divide(lost, whole, limbs);
    const std::optional<double> rounded = exact::try_round(exact::negate(exact::log1p(ratio, limbs)), exact::kF32);
    if (!rounded) return false;
    results_.log_kept_cut = static_cast<float>(*rounded);
  }
  return true;
}

// The same split again: once more in f64 if the sums came from the first pass, else at a greater precision.
void SampleRow::widen() {
  plan_.kind = PassPlan::Kind::split;
  plan_.lists = false;
  plan_.draws = false;
  if (surveyed_ && listed() > 0) return;
  plan_.limbs = plan_.limbs == 0 ? 4 : 2 * plan_.limbs;
}

void SampleRow::split_at_limit() {
  plan_.kind = PassPlan::Kind::split;
  plan_.from = after(plan_.limit);
  plan_.to = plan_.limit;
  plan_.lists = false;
  plan_.draws = true;
  window_.clear();
}

// too_short: all up to the end of the stretch does not reach top-p; if not, it is the end of top-k that is looked for.
void SampleRow::search_after_stretch(bool too_short) {
  // The guess only once: a search that it left empty-handed takes all that is left, so its passes are bounded.
  const bool guessing = plan_.kind != PassPlan::Kind::search;
  too_short_ = too_short;
  plan_.kind = PassPlan::Kind::search;
  plan_.from = after(plan_.to);
  const fold::Candidate guess{plan_.from.logit - kFirstReach, kLastId};
  plan_.to = guessing && fold::before(plan_.from, guess) ? earlier(guess, plan_.limit) : plan_.limit;
  plan_.lists = false;
  plan_.draws = false;
  plan_.limbs = 0;
  window_.clear();
}

// Top-k turned out to end beyond the list, top-p may end before it.
void SampleRow::search_from_top() {
  plan_.kind = PassPlan::Kind::search;
  plan_.from = {plan_.top, 0};
  plan_.to = earlier(plan_.to, plan_.limit);
  plan_.lists = false;
  plan_.draws = false;
  plan_.limbs = 0;
  window_.clear();
}

void SampleRow::end_search(const SamplePass& pass) {
  const Part middle = pass.middle_.part();
  const std::size_t bins = pass.bins_.size();
  std::int64_t counted = pass.inside_.count();
  for (std::size_t i = 0; i < bins; ++i) {
    counted += pass.bins_[i].sum.count();
    if (rank_ > 0 && counted >= rank_) return narrow(pass, i, i);
  }
  if (rank_ > 0 && counted + middle.count > rank_) return search_after_stretch(false);
  rank_ = 0;  // min-p keeps no more
  if (cuts_.top_p == 1) return split_at_limit();
  std::vector<Part> beyond(bins + 1);  // what follows on the bins before this one
  beyond[bins] = middle;
  for (std::size_t i = bins; i-- > 0;) beyond[i] = join(beyond[i + 1], pass.bins_[i].sum.part(), 0);
  Part prefix = pass.inside_.part();
  if (!too_short_ && prefix.count > 0 && reaches(prefix, beyond[0], cuts_.top_p, 0) >= 0) return search_from_top();
  too_short_ = true;
  std::size_t first = bins;
  for (std::size_t i = 0; i < bins; ++i) {
    if (pass.bins_[i].sum.count() == 0) continue;
    prefix = join(prefix, pass.bins_[i].sum.part(), 0);
    const int reached = reaches(prefix, beyond[i + 1], cuts_.top_p, 0);
    if (reached >= 0 && first == bins) first = i;
    if (reached > 0) return narrow(pass, first, i);
  }
  if (first == bins) return search_after_stretch(true);
  // f64 cannot tell whether the end lies in the last bins or behind them.
  plan_.from = pass.bins_[first].first;
  plan_.to = plan_.limit;
}

// Goes on with these bins, of which the first and the last are not empty.
void SampleRow::narrow(const SamplePass& pass, std::size_t first, std::size_t last) {
  std::int64_t count = 0;
  for (std::size_t i = first; i <= last; ++i) count += pass.bins_[i].sum.count();
  plan_.from = pass.bins_[first].first;
  plan_.to = pass.bins_[last].last;
  if (count > kMostListed) return;
  plan_.kind = PassPlan::Kind::split;
  plan_.lists = true;
  plan_.draws = true;
}

}  // namespace isologit::detail::sample
