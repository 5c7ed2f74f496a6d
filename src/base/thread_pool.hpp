// The library's own threads: kept between calls, invisible to the program that uses it.
#pragma once

#include <cstdint>
#include <functional>

namespace isologit::detail::base {

// Runs work(i) once for each i in [0, threads), as concurrently as the system allows, and returns when all are done.
//
// - work(0) runs on the calling thread. If the system refuses a thread, fewer run at a time, so no work(i) may wait
//   for another.
// - Every work(i) runs under an FpEnvironment of its own, also on the calling thread.
// - If some throw, the rest still run; then the exception of the lowest such i is rethrown here.
// - The library's threads run on the processors that the calling thread may run on (base/processors.hpp).
// - A call from inside work runs its indices one after another on its own thread.
// - Any number of user's threads may call at once; no call waits for another.
// - A child process made by fork() starts threads of its own. A child that is forked inside work must not return
//   from it: the threads that did the rest of the job are not there.
// - Throws std::bad_alloc, before any work has begun.
void parallel(int threads, const std::function<void(int)>& work);

// What `#pragma omp parallel` calls in programs that GCC compiled: work(data) on so many threads (libgomp's
// GOMP_parallel). Where a program uses it as well, its threads wait for their next work by spinning, and would take
// processors away from threads of the library's own. From this call on, parallel() runs on OpenMP's threads, but for
// calls that ask for processors where these are not (engines bind them, one to a processor, and ask for all of these),
// and in children of fork(). Null: on the library's again.
using OpenMp = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
void use_openmp(OpenMp parallel);

// The one loop over independent pieces of work: the threads take them from a common counter.
// work(worker, i) for i in [0, count) on `threads` threads, in no particular order; each worker, in [0, threads), runs
// one piece at a time. progress(share done) is called on the calling thread and may return false to stop; the result is
// false then. Throws Stopped where the thread's Asking says so (base/asking.hpp), and std::bad_alloc.
bool parallel_for(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
                  const std::function<bool(double)>& progress = {});

}  // namespace isologit::detail::base
