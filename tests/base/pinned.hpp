// A thread that is bound to one processor, as engines bind theirs.
#pragma once

#include <sched.h>

#include <thread>
#include <vector>

namespace isologit::detail::base {

// The processors that the calling thread may run on, ascending.
inline std::vector<int> own_processors() {
  cpu_set_t set;
  std::vector<int> own;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return own;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (CPU_ISSET(static_cast<std::size_t>(processor), &set)) own.push_back(processor);
  }
  return own;
}

inline bool bind_to(const std::vector<int>& processors) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) CPU_SET(static_cast<std::size_t>(processor), &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

// Runs the work on a thread of its own that is bound to this processor.
template <class Work>
void run_pinned(int processor, Work work) {
  std::thread([&] {
    if (bind_to({processor})) work();
  }).join();
}

}  // namespace isologit::detail::base
