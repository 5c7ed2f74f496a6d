#include "base/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/asking.hpp"
#include "base/fp_env.hpp"
#include "base/processors.hpp"

namespace isologit::detail::base {
namespace {

thread_local bool inside_work = false;
std::atomic<OpenMp> openmp = nullptr;

// One call of parallel(), on its caller's stack. All but the first three is guarded by the pool's mutex.
struct Job {
  const std::function<void(int)>& work;
  int threads;
  std::shared_ptr<const ProcessorSet> processors = nullptr;  // of the caller; null where the system does not say
  int next = 1;              // the first index nobody has taken; the caller starts with 0
  int running = 0;           // indices that pool threads have taken and not finished
  int failed = 0;            // the index that `error` is of
  Job* following = nullptr;  // in the pool's list
  std::exception_ptr error = nullptr;
  std::condition_variable done = {};
};

std::exception_ptr run_index(const std::function<void(int)>& work, int index) {
  try {
    const FpEnvironment environment;
    work(index);
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

void keep_lowest(Job& job, int index, std::exception_ptr error) {
  if (error && (!job.error || index < job.failed)) {
    job.failed = index;
    job.error = std::move(error);
  }
}

// Waits on the thread that made the call, which others look to for whether to go on.
template <class Done>
void wait_asking(std::unique_lock<std::mutex>& lock, std::condition_variable& change, Done done) {
  Asking* const asking = Asking::of_thread();
  while (!change.wait_for(lock, Asking::kEvery, done)) {
    if (asking == nullptr) continue;
    lock.unlock();
    asking->ask_if_due();
    lock.lock();
  }
}

// While one lives, threads that its thread creates are born with all signals blocked, so that the program's handlers
// run on the program's threads. Faults are left alone: they belong to the instruction that raised them, and a
// blocked one would end the process without its handler.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &former_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &former_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t former_;
};

// Threads take indices of any open job, and a caller takes what is left of its own. So a job never waits for a
// thread to become free, only for indices that are running.
class Pool {
 public:
  void run(Job& job) {
    open(job);
    keep_own(job, 0);
    std::unique_lock lock(mutex_);
    while (job.next < job.threads) {
      const int index = take(job);
      lock.unlock();
      keep_own(job, index);
      lock.lock();
    }
    wait_asking(lock, job.done, [&job] { return job.running == 0; });
    wanted_ -= job.threads - 1;
  }

 private:
  void open(Job& job) {
    const std::lock_guard lock(mutex_);
    job.following = jobs_;
    jobs_ = &job;
    wanted_ += job.threads - 1;
    grow();
    for (int i = std::min(job.threads - 1, workers_); i > 0; --i) wake_.notify_one();
  }

  void keep_own(Job& job, int index) {
    if (std::exception_ptr error = run_index(job.work, index)) {
      const std::lock_guard lock(mutex_);
      keep_lowest(job, index, std::move(error));
    }
  }

  // Under the mutex. A job whose last index is taken leaves the list.
  int take(Job& job) {
    const int index = job.next++;
    if (job.next == job.threads) {
      Job** link = &jobs_;
      while (*link != &job) link = &(*link)->following;
      *link = job.following;
    }
    return index;
  }

  // Under the mutex: as many threads as the open calls could use together, or as many as the system gives.
  void grow() {
    if (workers_ >= wanted_) return;
    const SignalsBlocked signals_blocked;
    try {
      for (; workers_ < wanted_; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // no more threads: the callers do what is left
    } catch (const std::bad_alloc&) {
    }
  }

  [[noreturn]] void serve() {
    inside_work = true;
    std::shared_ptr<const ProcessorSet> own;  // what this thread was last told to run on
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return jobs_ != nullptr; });
      Job& job = *jobs_;
      const int index = take(job);
      ++job.running;
      lock.unlock();
      if (job.processors != nullptr && (own == nullptr || *own != *job.processors) && job.processors->apply()) {
        own = job.processors;
      }
      std::exception_ptr error = run_index(job.work, index);
      lock.lock();
      keep_lowest(job, index, std::move(error));
      // Under the mutex still: the caller frees the job as soon as it sees running == 0.
      if (--job.running == 0) job.done.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  Job* jobs_ = nullptr;  // those with indices left to take
  int wanted_ = 0;       // threads that the calls in progress could use
  int workers_ = 0;
};

// Never freed: its threads may outlive every static object.
std::atomic<Pool*> current_pool = nullptr;

// In the child of a fork the pool's threads do not exist and its mutex may be locked for ever: make it anew. Nothing
// is lost by skipping the destructor, since a Pool owns no memory; to run it would be to touch that mutex.
void renew_pool() {
  if (Pool* old = current_pool.load()) new (old) Pool;
  openmp = nullptr;  // whose threads are not there either, which it does not know
  inside_work = false;
}

// At load time, not at first use: a fork during the first use would find no handler.
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, renew_pool);

Pool& pool() {
  Pool* existing = current_pool.load();
  if (existing == nullptr) {
    auto fresh = std::make_unique<Pool>();
    if (current_pool.compare_exchange_strong(existing, fresh.get())) existing = fresh.release();
  }
  return *existing;
}

// Marks a thread for the duration of its work.
class InsideWork {
 public:
  InsideWork() : former_(inside_work) { inside_work = true; }
  ~InsideWork() { inside_work = former_; }
  InsideWork(const InsideWork&) = delete;
  InsideWork& operator=(const InsideWork&) = delete;

 private:
  bool former_;
};

// A job by the threads of OpenMP's runtime. They may be fewer than asked for.
class Team {
 public:
  explicit Team(Job& job) : job_(job), caller_(std::this_thread::get_id()), left_(job.threads) {}

  void run(OpenMp parallel) { parallel(&Team::enter, this, static_cast<unsigned>(job_.threads), 0); }

 private:
  static constexpr int kLooks = 200;  // some tenth of a millisecond

  static void enter(void* team) { static_cast<Team*>(team)->work(); }

  void work() {
    const InsideWork inside;
    const bool caller = std::this_thread::get_id() == caller_;
    if (caller) keep(0);
    for (int index = next_++; index < job_.threads; index = next_++) keep(index);
    if (!caller) return;
    // Here and not at OpenMP's barrier, which asks nobody. Like that, not asleep at once: most others are about to end.
    for (int i = 0; i < kLooks && left_ != 0; ++i) std::this_thread::yield();
    std::unique_lock lock(mutex_);
    wait_asking(lock, job_.done, [this] { return left_ == 0; });
  }

  void keep(int index) {
    std::exception_ptr error = run_index(job_.work, index);
    const std::lock_guard lock(mutex_);
    keep_lowest(job_, index, std::move(error));
    if (--left_ == 0) job_.done.notify_one();
  }

  Job& job_;
  std::thread::id caller_;
  std::atomic<int> next_ = 1;
  std::mutex mutex_;
  std::atomic<int> left_;  // indices that are not done; goes to 0 under the mutex
};

// Where OpenMP's threads run, as they say themselves.
class Places {
 public:
  Places(OpenMp team, int threads) : caller_(std::this_thread::get_id()) {
    team(&Places::enter, this, static_cast<unsigned>(threads), 0);
  }

  // Whether these are so many processors of the set, but for the caller's.
  bool are(const ProcessorSet& set, int threads) const {
    return !unknown_ && all_.count() >= threads - 1 && set.holds(all_);
  }

 private:
  static void enter(void* places) { static_cast<Places*>(places)->look(); }

  void look() {
    if (std::this_thread::get_id() == caller_) return;
    const std::lock_guard lock(mutex_);
    try {
      const auto own = ProcessorSet::of_thread();
      if (own == nullptr) throw std::bad_alloc();
      all_.add(*own);
    } catch (const std::bad_alloc&) {
      unknown_ = true;
    }
  }

  std::thread::id caller_;
  std::mutex mutex_;
  ProcessorSet all_;
  bool unknown_ = false;
};

// Whether OpenMP's threads are on processors that the calling thread was told to run on. Looked at once for each set.
bool is_on(const ProcessorSet& set, OpenMp team, int threads) {
  struct Answer {
    ProcessorSet set;
    OpenMp team = nullptr;
    int threads = 0;
    bool is_on = false;
  };
  thread_local Answer last;
  if (last.team != team || last.threads != threads || last.set != set) {
    last = {set, team, threads, Places(team, threads).are(set, threads)};
  }
  return last.is_on;
}

// Whether a job is for the threads of OpenMP.
bool is_for(OpenMp team, int threads) {
  if (team == nullptr) return false;
  if (!ProcessorScope::is_in_force()) return true;
  const auto set = ProcessorSet::of_thread();
  return set != nullptr && is_on(*set, team, threads);
}

}  // namespace

void use_openmp(OpenMp parallel) { openmp = parallel; }

void parallel(int threads, const std::function<void(int)>& work) {
  Job job{.work = work, .threads = threads};
  const OpenMp team = openmp;
  if (threads <= 1 || inside_work) {
    for (int index = 0; index < threads; ++index) keep_lowest(job, index, run_index(work, index));
  } else if (is_for(team, threads)) {
    Team(job).run(team);
  } else {
    Pool& shared = pool();
    job.processors = ProcessorSet::of_thread();
    const InsideWork inside;
    shared.run(job);
  }
  if (job.error) std::rethrow_exception(job.error);
}

bool parallel_for(int threads, std::int64_t count, const std::function<void(int, std::int64_t)>& work,
                  const std::function<bool(double)>& progress) {
  std::atomic<std::int64_t> next = 0;
  std::atomic<bool> stop = false;
  Asking* const asking = Asking::of_thread();
  const auto stopped = [&] { return stop || (asking != nullptr && asking->stopped()); };
  parallel(threads, [&](int worker) {
    const Asking::Help help(asking);
    try {
      for (std::int64_t i = next++; i < count && !stopped(); i = next++) {
        work(worker, i);
        if (worker != 0) continue;
        if (progress && !progress(static_cast<double>(i + 1) / static_cast<double>(count))) stop = true;
        if (asking != nullptr) asking->ask_if_due();
      }
    } catch (const Stopped&) {  // told below, once, whichever piece saw it first
    }
  });
  if (stop) return false;
  if (asking != nullptr && asking->stopped()) throw Stopped();
  return true;
}

}  // namespace isologit::detail::base
