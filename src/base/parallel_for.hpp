// The one loop over independent pieces of work: the threads take them from a common counter.
#pragma once

#include <cstdint>
#include <functional>

namespace isologit::detail::base {

// work(worker, i) for i in [0, count) on `threads` threads, in no particular order; each worker, in [0, threads), runs
// one piece at a time. progress(share done) is called on the calling thread and may return false to stop; the result is
// false then.
bool parallel_for(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
                  const std::function<bool(double)>& progress = {});

}  // namespace isologit::detail::base
