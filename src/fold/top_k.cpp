#include "fold/top_k.hpp"

#include <algorithm>
#include <cmath>

namespace isologit::detail::fold {

bool before(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.logit);
  const bool b_nan = std::isnan(b.logit);
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.logit != b.logit) return a.logit > b.logit;
  return a.id < b.id;
}

void TopK::insert(const Candidate& candidate) {
  if (heap_.size() < k_) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end(), before);
  } else if (before(candidate, heap_.front())) {
    std::pop_heap(heap_.begin(), heap_.end(), before);
    heap_.back() = candidate;
    std::push_heap(heap_.begin(), heap_.end(), before);
  }
}

void TopK::absorb(const kernels::FoldLoops& loops, const float* logits, const std::uint8_t* support, std::int64_t count,
                  std::int64_t first_id) {
  // Most tiles hold nothing that could enter.
  if (heap_.size() == k_ && !loops.any_not_below(logits, count, heap_.front().logit)) return;
  for (std::int64_t j = 0; j < count; ++j) {
    if (support == nullptr || support[j] != 0) insert({logits[j], first_id + j});
  }
}

void TopK::merge(const TopK& other) {
  for (const Candidate& candidate : other.heap_) insert(candidate);
}

void TopK::write(base::ByteWriter& bytes) const {
  bytes.put(static_cast<std::int64_t>(heap_.size()));
  for (const Candidate& candidate : heap_) {
    bytes.put(candidate.logit);
    bytes.put(candidate.id);
  }
}

bool TopK::read(base::ByteReader& bytes) {
  std::int64_t size = 0;
  if (!bytes.get(size) || size < 0 || size > static_cast<std::int64_t>(k_)) return false;
  heap_.clear();
  for (std::int64_t i = 0; i < size; ++i) {
    Candidate candidate{};
    if (!bytes.get(candidate.logit) || !bytes.get(candidate.id)) return false;
    insert(candidate);
  }
  return true;
}

std::vector<Candidate> TopK::sorted() const {
  std::vector<Candidate> list = heap_;
  std::sort(list.begin(), list.end(), before);
  return list;
}

}  // namespace isologit::detail::fold
