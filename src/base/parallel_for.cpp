#include "base/parallel_for.hpp"

#include <atomic>

#include "base/thread_pool.hpp"

namespace isologit::detail::base {

bool parallel_for(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
                  const std::function<bool(double)>& progress) {
  std::atomic<std::int64_t> next = 0;
  std::atomic<bool> stop = false;
  parallel(threads, [&](int worker) {
    for (std::int64_t i = next++; i < count && !stop; i = next++) {
      work(worker, i);
      if (worker == 0 && progress && !progress(static_cast<double>(i + 1) / static_cast<double>(count))) stop = true;
    }
  });
  return !stop;
}

}  // namespace isologit::detail::base
