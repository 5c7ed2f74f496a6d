#include "base/processors.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "base/text.hpp"

#if defined(__linux__)
#include <sched.h>

#include <cerrno>
#endif

namespace isologit::detail::base {
namespace {

constexpr int kWordBits = 8 * sizeof(unsigned long);

thread_local int scopes = 0;  // that changed something

std::size_t word_of(int processor) { return static_cast<std::size_t>(processor / kWordBits); }
unsigned long bit_of(int processor) { return 1UL << static_cast<unsigned>(processor % kWordBits); }

}  // namespace

std::shared_ptr<const ProcessorSet> ProcessorSet::of_thread() {
#if defined(__linux__)
  ProcessorSet set;
  // The kernel refuses a mask shorter than its own, whose length it does not tell.
  for (int processors = 1024; processors <= kMost; processors *= 2) {
    set.words_.assign(word_of(processors), 0);
    const std::size_t bytes = set.words_.size() * sizeof(unsigned long);
    if (sched_getaffinity(0, bytes, reinterpret_cast<cpu_set_t*>(set.words_.data())) == 0) {
      while (!set.words_.empty() && set.words_.back() == 0) set.words_.pop_back();
      return std::make_shared<const ProcessorSet>(std::move(set));
    }
    if (errno != EINVAL) break;
  }
#endif
  return nullptr;
}

ProcessorSet::ProcessorSet(const std::vector<int>& processors) {
  if (processors.empty()) return;
  words_.assign(word_of(*std::max_element(processors.begin(), processors.end())) + 1, 0);
  for (const int processor : processors) words_[word_of(processor)] |= bit_of(processor);
}

int ProcessorSet::count() const {
  int total = 0;
  for (const unsigned long word : words_) total += std::popcount(word);
  return total;
}

bool ProcessorSet::has(int processor) const {
  return word_of(processor) < words_.size() && (words_[word_of(processor)] & bit_of(processor)) != 0;
}

bool ProcessorSet::holds(const ProcessorSet& others) const {
  for (std::size_t i = 0; i < others.words_.size(); ++i) {
    if ((others.words_[i] & ~(i < words_.size() ? words_[i] : 0)) != 0) return false;
  }
  return true;
}

void ProcessorSet::add(const ProcessorSet& others) {
  words_.resize(std::max(words_.size(), others.words_.size()));
  for (std::size_t i = 0; i < others.words_.size(); ++i) words_[i] |= others.words_[i];
}

bool ProcessorSet::apply() const {
#if defined(__linux__)
  const std::size_t bytes = words_.size() * sizeof(unsigned long);
  return sched_setaffinity(0, bytes, reinterpret_cast<const cpu_set_t*>(words_.data())) == 0;
#else
  return false;
#endif
}

Result<ProcessorScope> ProcessorScope::enter(const std::optional<std::vector<int>>& processors) {
  ProcessorScope scope;
  if (!processors) return scope;
  if (processors->empty()) {
    return fail(StatusCode::invalid_argument,
                "processors: an empty set; expected at least one, or no set, for those of the calling thread");
  }
  for (const int processor : *processors) {
    if (processor >= 0 && processor < ProcessorSet::kMost) continue;
    return fail(StatusCode::invalid_argument,
                concat("processors: ", processor, "; expected numbers from 0 to ", ProcessorSet::kMost - 1));
  }
  const auto former = ProcessorSet::of_thread();
  if (former == nullptr) {
    return fail(StatusCode::unsupported,
                "processors: this system does not bind threads to processors; expected no set of them");
  }
  const ProcessorSet wanted(*processors);
  if (wanted == *former) return scope;
  auto kept = std::make_unique<const ProcessorSet>(*former);
  const bool applied = wanted.apply();
  if (applied) {
    scope.former_ = std::move(kept);
    ++scopes;
  }
  // The system takes what it can get of the set.
  const auto got = applied ? ProcessorSet::of_thread() : nullptr;
  if (got != nullptr && *got == wanted) return scope;
  const auto missing = std::find_if(processors->begin(), processors->end(),
                                    [&](int processor) { return got == nullptr || !got->has(processor); });
  return fail(StatusCode::invalid_argument,
              concat("processors: ", *missing,
                     " is not one that the system lets this process run on; expected processors of its control "
                     "group (cpuset.cpus.effective)"));
}

bool ProcessorScope::is_in_force() { return scopes > 0; }

ProcessorScope::~ProcessorScope() {
  if (former_ == nullptr) return;
  former_->apply();
  --scopes;
}

}  // namespace isologit::detail::base
