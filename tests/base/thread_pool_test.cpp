#include "base/thread_pool.hpp"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace isologit::detail::base {
namespace {

using namespace std::chrono_literals;

TEST(Parallel, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 7, 8, 64, 2, 5}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<int> runs(static_cast<std::size_t>(threads), 0);  // not atomic: parallel() itself must order them
      parallel(threads, [&runs](int i) { ++runs[static_cast<std::size_t>(i)]; });
      EXPECT_EQ(runs, std::vector<int>(runs.size(), 1)) << threads << " threads";
    }
  }
}

TEST(Parallel, RunsNothingForNoThreads) {
  parallel(0, [](int) { ADD_FAILURE(); });
  parallel(-3, [](int) { ADD_FAILURE(); });
}

TEST(Parallel, RunsIndexZeroOnTheCaller) {
  std::thread::id zero;
  parallel(4, [&zero](int i) {
    if (i == 0) zero = std::this_thread::get_id();
  });
  EXPECT_EQ(zero, std::this_thread::get_id());
}

// Each index waits until all have begun, which happens only if they run at the same time.
TEST(Parallel, RunsIndicesAtTheSameTime) {
  std::atomic<int> begun = 0;
  std::atomic<int> met = 0;
  parallel(6, [&](int) {
    ++begun;
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (begun < 6 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
    if (begun == 6) ++met;
  });
  EXPECT_EQ(met, 6);
}

TEST(Parallel, RethrowsTheExceptionOfTheLowestIndexWhenAllHaveRun) {
  for (const int threads : {1, 2, 8}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::atomic<int> runs = 0;
      const int lowest = repeat % threads;
      try {
        parallel(threads, [&runs, lowest](int i) {
          ++runs;
          if (i >= lowest) throw std::runtime_error(std::to_string(i));
        });
        ADD_FAILURE() << "no exception";
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(error.what(), std::to_string(lowest));
      }
      EXPECT_EQ(runs, threads);
    }
  }
  int after = 0;
  parallel(1, [&after](int) { ++after; });
  EXPECT_EQ(after, 1);
}

TEST(Parallel, RunsNestedCallsOnTheirOwnThread) {
  std::atomic<int> runs = 0;
  std::atomic<int> elsewhere = 0;
  parallel(4, [&](int) {
    const std::thread::id here = std::this_thread::get_id();
    parallel(5, [&](int) {
      parallel(3, [&](int) {
        ++runs;
        if (std::this_thread::get_id() != here) ++elsewhere;
      });
    });
  });
  EXPECT_EQ(runs, 4 * 5 * 3);
  EXPECT_EQ(elsewhere, 0);
}

TEST(Parallel, PassesExceptionsOutOfNestedCalls) {
  EXPECT_THROW(parallel(3, [](int) { parallel(3, [](int i) { i == 2 ? throw std::out_of_range("two") : void(); }); }),
               std::out_of_range);
}

// A call made for work, but by a thread of the user's that work waits for.
TEST(Parallel, DoesNotDeadlockWhenWorkWaitsForAnotherCaller) {
  std::atomic<int> runs = 0;
  parallel(3, [&runs](int) { std::thread([&runs] { parallel(3, [&runs](int) { ++runs; }); }).join(); });
  EXPECT_EQ(runs, 9);
}

TEST(Parallel, ServesConcurrentCallers) {
  constexpr int callers = 6;
  constexpr int calls = 200;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> users;
  for (int caller = 0; caller < callers; ++caller) {
    users.emplace_back([caller, &wrong] {
      for (int call = 0; call < calls; ++call) {
        const int threads = 1 + (caller + call) % 5;
        std::vector<int> runs(static_cast<std::size_t>(threads), 0);
        bool thrown = false;
        try {
          parallel(threads, [&runs, call](int i) {
            ++runs[static_cast<std::size_t>(i)];
            if (call % 7 == 0 && i == 0) throw std::runtime_error("seventh");
          });
        } catch (const std::runtime_error&) {
          thrown = true;
        }
        if (runs != std::vector<int>(runs.size(), 1) || thrown != (call % 7 == 0)) ++wrong;
      }
    });
  }
  for (std::thread& user : users) user.join();
  EXPECT_EQ(wrong, 0);
}

bool rounds_up() {
  volatile float one = 1.0F;
  volatile float little = 0x1p-30F;
  volatile float sum = one + little;
  return sum != 1.0F;
}

// Neither what the caller has set nor what earlier work has left behind is seen by work or changed for the caller.
TEST(Parallel, RunsAllWorkInTheLibrarysFloatingPointEnvironment) {
  std::atomic<int> wrong = 0;
  const auto check_and_spoil = [&wrong](int) {
    if (rounds_up()) ++wrong;
    std::fesetround(FE_UPWARD);
    std::this_thread::sleep_for(1ms);  // lets the pool's threads take some of the indices
  };
  for (const int caller : {FE_TONEAREST, FE_UPWARD}) {
    for (const int threads : {4, 1, 4}) {
      std::fesetround(caller);
      parallel(threads, check_and_spoil);
      const bool caller_rounds_up = rounds_up();
      std::fesetround(FE_TONEAREST);
      EXPECT_EQ(caller_rounds_up, caller == FE_UPWARD);
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Parallel, LeavesSignalsToTheProgramsThreads) {
  sigset_t before;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  std::atomic<int> worker_indices = 0;
  std::atomic<int> open_signals = 0;
  std::atomic<int> blocked_faults = 0;
  const auto caller = std::this_thread::get_id();
  // Enough for pool threads to be made by this very call; sleeping, so that they and not the caller take the indices.
  parallel(80, [&](int) {
    std::this_thread::sleep_for(5ms);
    if (std::this_thread::get_id() == caller) return;
    ++worker_indices;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGUSR1, SIGPROF, SIGPIPE}) {
      if (sigismember(&mask, signal) != 1) ++open_signals;
    }
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
      if (sigismember(&mask, fault) != 0) ++blocked_faults;
    }
  });
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_GT(worker_indices, 0);
  EXPECT_EQ(open_signals, 0);
  EXPECT_EQ(blocked_faults, 0);
  for (int signal = 1; signal < 32; ++signal) EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal));
}

}  // namespace
}  // namespace isologit::detail::base
