// The pool in child processes and where the system refuses threads. Each child ends by _exit with 0 for success; one
// that hangs is ended by its alarm.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "base/thread_pool.hpp"

namespace isologit::detail::base {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view sanitizers = SANITIZERS;
// The thread sanitizer does not support threads in the child of a process that had threads.
constexpr bool fork_supported = sanitizers.find("thread") == sanitizers.npos;
// The address sanitizer's allocator stays locked in the child if another thread was allocating at that moment.
constexpr bool fork_among_busy_threads_supported = sanitizers.empty();

int run_in_child(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    alarm(60);
    bool succeeded = false;
    try {
      succeeded = body();
    } catch (...) {  // must not reach the copy of the test runner in this process
    }
    _exit(succeeded ? 0 : 1);
  }
  int status = -1;
  while (waitpid(child, &status, 0) == -1 && errno == EINTR) {
  }
  return status;
}

// True if every index ran once and, where that is asked for, on threads of their own.
bool pool_works(bool on_own_threads) {
  constexpr int threads = 4;
  std::vector<std::thread::id> ran_on(threads);
  std::atomic<int> runs = 0;
  parallel(threads, [&](int i) {
    ran_on[static_cast<std::size_t>(i)] = std::this_thread::get_id();
    ++runs;
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (on_own_threads && runs < threads && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(1ms);
    }
  });
  const std::set<std::thread::id> distinct(ran_on.begin(), ran_on.end());
  return runs == threads && (!on_own_threads || distinct.size() == threads);
}

TEST(ParallelAfterFork, WorksInTheChildOfAWarmPool) {
  if (!fork_supported) GTEST_SKIP() << "no threads after fork under this sanitizer";
  ASSERT_TRUE(pool_works(true));
  EXPECT_EQ(run_in_child([] { return pool_works(true) && pool_works(true); }), 0);
  EXPECT_TRUE(pool_works(true)) << "the parent's pool";
}

TEST(ParallelAfterFork, WorksInAGrandchild) {
  if (!fork_supported) GTEST_SKIP() << "no threads after fork under this sanitizer";
  ASSERT_TRUE(pool_works(true));
  EXPECT_EQ(run_in_child([] {
              return pool_works(true) && run_in_child([] { return pool_works(true); }) == 0 && pool_works(true);
            }),
            0);
}

// The pool's mutex is often held by another thread at the moment of the fork.
TEST(ParallelAfterFork, WorksWhenOtherThreadsWereUsingThePool) {
  if (!fork_among_busy_threads_supported) GTEST_SKIP() << "the sanitizer itself may hang in the child";
  std::atomic<bool> stop = false;
  std::vector<std::thread> users;
  for (int user = 0; user < 2; ++user) {
    users.emplace_back([&stop] {
      while (!stop) parallel(3, [](int) {});
    });
  }
  int failed = 0;
  for (int repeat = 0; repeat < 40; ++repeat) failed += run_in_child([] { return pool_works(false); }) != 0 ? 1 : 0;
  stop = true;
  for (std::thread& user : users) user.join();
  EXPECT_EQ(failed, 0);
}

TEST(ParallelAfterFork, WorksWhenForkedInsideWork) {
  if (!fork_among_busy_threads_supported) GTEST_SKIP() << "the sanitizer itself may hang in the child";
  std::atomic<int> failed = 0;
  parallel(3, [&failed](int) { failed += run_in_child([] { return pool_works(true); }) != 0 ? 1 : 0; });
  EXPECT_EQ(failed, 0);
}

// Leaves room for small allocations but not for a thread's stack, and takes the stacks of former threads that libc
// keeps for later ones. False if threads can still be made.
bool use_up_threads() {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  if (!(statm >> pages)) return false;
  const rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (1U << 20);
  const rlimit limit = {bytes, bytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) return false;
  for (int made = 0; made < 1000; ++made) {
    try {
      std::thread([] { pause(); }).detach();
    } catch (const std::system_error&) {
      return true;
    }
  }
  return false;
}

TEST(ParallelWithoutThreads, StillRunsEveryIndex) {
  if (!sanitizers.empty()) GTEST_SKIP() << "the sanitizers need the address space that this test takes away";
  EXPECT_EQ(run_in_child([] {
              if (!use_up_threads()) return false;
              std::vector<int> runs(8, 0);
              bool elsewhere = false;
              const auto caller = std::this_thread::get_id();
              for (int repeat = 0; repeat < 3; ++repeat) {
                parallel(8, [&](int i) {
                  ++runs[static_cast<std::size_t>(i)];
                  if (std::this_thread::get_id() != caller) elsewhere = true;
                });
              }
              try {
                parallel(3, [](int i) { i == 2 ? throw std::out_of_range("two") : void(); });
                return false;
              } catch (const std::out_of_range&) {
              }
              return runs == std::vector<int>(8, 3) && !elsewhere;
            }),
            0);
}

}  // namespace
}  // namespace isologit::detail::base
