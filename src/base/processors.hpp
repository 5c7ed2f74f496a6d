// The processors that threads run on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "isologit/status.hpp"

namespace isologit::detail::base {

// A set of processors, by the numbers of the system.
class ProcessorSet {
 public:
  // Those that the calling thread may run on; null where the system does not say. Throws std::bad_alloc.
  static std::shared_ptr<const ProcessorSet> of_thread();
  explicit ProcessorSet(const std::vector<int>& processors);  // each in [0, kMost)

  int count() const;
  bool has(int processor) const;
  bool holds(const ProcessorSet& others) const;
  void add(const ProcessorSet& others);
  // Lets the calling thread run on these alone; false, and nothing has changed, where the system refuses.
  bool apply() const;
  bool operator==(const ProcessorSet&) const = default;

  static constexpr int kMost = 1 << 20;

  ProcessorSet() = default;

 private:
  std::vector<unsigned long> words_;  // as in a cpu_set_t, without zeros at the end
};

// While one lives, its thread runs on the processors that a caller asks for, and so do the threads of parallel(), which
// follow the calling thread; then on those from before.
class ProcessorScope {
 public:
  // Nothing asked for: nothing changes. Throws std::bad_alloc.
  static Result<ProcessorScope> enter(const std::optional<std::vector<int>>& processors);
  ProcessorScope(ProcessorScope&&) noexcept = default;
  ~ProcessorScope();
  // Whether one of the calling thread's has changed something.
  static bool is_in_force();

 private:
  ProcessorScope() = default;
  std::unique_ptr<const ProcessorSet> former_;  // null: nothing to go back to
};

}  // namespace isologit::detail::base
