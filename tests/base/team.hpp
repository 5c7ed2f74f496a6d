// OpenMP's GOMP_parallel, as far as parallel() uses it: a barrier at the end that asks nobody.
#pragma once

#include <thread>
#include <vector>

namespace isologit::detail::base {

inline void team_of_threads(void (*work)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, data);
  work(data);
  for (std::thread& other : others) other.join();
}

}  // namespace isologit::detail::base
