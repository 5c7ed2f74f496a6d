#include <algorithm>
#include <limits>

#include "sample/sample_row.hpp"

namespace isologit::detail::sample {
namespace {

// before() for logits that are not NaN.
bool stands_before(const fold::Candidate& a, const fold::Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace

SamplePass::SamplePass(const PassPlan& plan)
    : plan_(&plan), inside_(plan.limbs), middle_(plan.limbs), outside_(plan.limbs), contenders_(plan.draw) {
  if (plan.kind == PassPlan::Kind::search) bins_.resize(kBins);
}

// Grows along the order, and separates its first and last place.
std::size_t SamplePass::bin_of(const fold::Candidate& candidate) const {
  const fold::Candidate& from = plan_->from;
  const fold::Candidate& to = plan_->to;
  double share = 0;
  if (from.logit > to.logit) {
    const double range = static_cast<double>(from.logit) - static_cast<double>(to.logit);
    share = (static_cast<double>(from.logit) - static_cast<double>(candidate.logit)) / range;
  } else if (to.id > from.id) {
    share = static_cast<double>(candidate.id - from.id) / static_cast<double>(to.id - from.id);
  }
  return std::min(static_cast<std::size_t>(share * static_cast<double>(kBins)), kBins - 1);
}

void SamplePass::Bin::widen(const fold::Candidate& one) {
  if (sum.count() == 0 || stands_before(one, first)) first = one;
  if (sum.count() == 0 || stands_before(last, one)) last = one;
}

void SamplePass::absorb(const kernels::FoldLoops& loops, const float* logits, std::int64_t count,
                        std::int64_t first_id) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  float inside[kernels::kMostTile];
  std::fill(inside, inside + kernels::kMostTile, kNothing);
  double terms[kernels::kMostTile];
  const bool fast = plan_->limbs == 0;
  if (fast) fast_terms(plan_->top, logits, count, terms);
  bool any_inside = false;
  const bool searching = fast && plan_->kind == PassPlan::Kind::search;  // a search is in f64
  for (std::int64_t j = 0; j < count; ++j) {
    const fold::Candidate candidate{logits[j], first_id + j};
    if (!(candidate.logit > kNothing)) continue;
    PartSum* part = &outside_;
    if (stands_before(candidate, plan_->from)) {
      inside[j] = candidate.logit;
      any_inside = true;
      part = &inside_;
    } else if (!stands_before(plan_->to, candidate)) {
      if (searching) add_to_bin(candidate, terms[j]);
      if (plan_->lists) list_.push_back(candidate);
      continue;
    } else if (!stands_before(plan_->limit, candidate)) {
      part = &middle_;
    }
    if (fast) {
      part->fast().add_unflushed(candidate.logit == plan_->top, terms[j]);
    } else {
      part->add(term_of(plan_->top, candidate.logit, plan_->limbs));
    }
  }
  for (PartSum* part : {&inside_, &middle_, &outside_}) part->fast().flush();
  if (plan_->draws && any_inside) contenders_.absorb(loops, inside, count, first_id);
}

void SamplePass::add_to_bin(const fold::Candidate& candidate, double term) {
  Bin& bin = bins_[bin_of(candidate)];
  bin.widen(candidate);
  bin.sum.add_unflushed(candidate.logit == plan_->top, term);
  bin.sum.flush();
}

void SamplePass::merge(const SamplePass& other) {
  inside_.merge(other.inside_);
  middle_.merge(other.middle_);
  outside_.merge(other.outside_);
  contenders_.merge(other.contenders_);
  list_.insert(list_.end(), other.list_.begin(), other.list_.end());
  for (std::size_t i = 0; i < bins_.size(); ++i) {
    if (other.bins_[i].sum.count() == 0) continue;
    bins_[i].widen(other.bins_[i].first);
    // Where the bin was empty until now, its last place is still the first of the other.
    if (stands_before(bins_[i].last, other.bins_[i].last)) bins_[i].last = other.bins_[i].last;
    bins_[i].sum.merge(other.bins_[i].sum);
  }
}

void SamplePass::write(base::ByteWriter& bytes) const {
  const auto put = [&](const fold::Candidate& candidate) {
    bytes.put(candidate.logit);
    bytes.put(candidate.id);
  };
  for (const PartSum* part : {&inside_, &middle_, &outside_}) part->write(bytes);
  contenders_.write(bytes);
  bytes.put(static_cast<std::int64_t>(list_.size()));
  for (const fold::Candidate& candidate : list_) put(candidate);
  for (const Bin& bin : bins_) {
    bin.sum.write(bytes);
    if (bin.sum.count() == 0) continue;
    put(bin.first);
    put(bin.last);
  }
}

bool SamplePass::merge_read(base::ByteReader& bytes) {
  const auto get = [&](fold::Candidate& candidate) { return bytes.get(candidate.logit) && bytes.get(candidate.id); };
  SamplePass other(*plan_);
  for (PartSum* part : {&other.inside_, &other.middle_, &other.outside_}) {
    if (!part->read(bytes)) return false;
  }
  if (!other.contenders_.merge_read(bytes)) return false;
  std::int64_t size = 0;
  if (!bytes.get_count(size)) return false;
  for (std::int64_t i = 0; i < size; ++i) {
    fold::Candidate candidate{};
    if (!get(candidate)) return false;
    other.list_.push_back(candidate);
  }
  for (Bin& bin : other.bins_) {
    if (!bin.sum.read(bytes) || (bin.sum.count() > 0 && (!get(bin.first) || !get(bin.last)))) return false;
  }
  merge(other);
  return true;
}

}  // namespace isologit::detail::sample
