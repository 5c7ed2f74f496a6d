// Whether to go on: who is asked, how soon, and who hears the answer, on the library's own threads and on a team's.
#include "base/asking.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/thread_pool.hpp"
#include "team.hpp"

namespace isologit::detail::base {
namespace {

// Long enough for any machine; only a failing test takes it.
constexpr std::chrono::seconds kForEver{20};

class AskingTest : public testing::TestWithParam<OpenMp> {
 protected:
  AskingTest() { use_openmp(GetParam()); }
  ~AskingTest() override { use_openmp(nullptr); }
};

// A piece of work that only a stop ends in time.
void endless_piece() {
  const auto end = std::chrono::steady_clock::now() + kForEver;
  while (std::chrono::steady_clock::now() < end) go_on_or_throw();
}

TEST_P(AskingTest, EndsThePiecesOfOthersWhileTheCallerHasNoneLeft) {
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> asked_elsewhere = false;
  const Asking asking([&] {
    asked_elsewhere = asked_elsewhere || std::this_thread::get_id() != caller;
    return false;
  });
  std::atomic<int> begun = 0;
  std::atomic<bool> outlived = false;
  // The caller waits in its piece until the other has begun, and then at the end of the loop.
  const auto work = [&](int, std::int64_t) {
    ++begun;
    if (std::this_thread::get_id() == caller) {
      const auto end = std::chrono::steady_clock::now() + kForEver;
      while (begun < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      return;
    }
    endless_piece();
    outlived = true;
  };
  EXPECT_THROW(parallel_for(2, 2, work), Stopped);
  EXPECT_EQ(begun, 2);
  EXPECT_FALSE(outlived);
  EXPECT_FALSE(asked_elsewhere);
}

TEST_P(AskingTest, EndsAllPiecesFromWithinTheCallersOwn) {
  const Asking asking([] { return false; });
  std::atomic<int> outlived = 0;
  const auto work = [&](int, std::int64_t) {
    endless_piece();
    ++outlived;
  };
  EXPECT_THROW(parallel_for(3, 5, work), Stopped);
  EXPECT_EQ(outlived, 0);
}

TEST_P(AskingTest, EndsNestedLoopsOfOtherThreads) {
  const std::thread::id caller = std::this_thread::get_id();
  const Asking asking([] { return false; });
  std::atomic<int> pieces = 0;
  const auto work = [&](int, std::int64_t) {
    if (std::this_thread::get_id() == caller) {
      endless_piece();
      return;
    }
    const auto end = std::chrono::steady_clock::now() + kForEver;
    parallel_for(2, 1 << 20, [&](int, std::int64_t) {
      if (std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++pieces;
    });
  };
  EXPECT_THROW(parallel_for(2, 2, work), Stopped);
  EXPECT_LT(pieces, 1 << 20);
}

TEST_P(AskingTest, GoesOnWhileTheAnswerIsYes) {
  int asked = 0;
  const Asking asking([&] {
    ++asked;
    return true;
  });
  std::atomic<int> done = 0;
  EXPECT_TRUE(parallel_for(2, 4, [&](int, std::int64_t) {
    const auto end = std::chrono::steady_clock::now() + 3 * Asking::kEvery;
    while (std::chrono::steady_clock::now() < end) go_on_or_throw();
    ++done;
  }));
  EXPECT_EQ(done, 4);
  EXPECT_GT(asked, 0);
}

TEST_P(AskingTest, AProgressThatSaysNoIsNoException) {
  const std::thread::id caller = std::this_thread::get_id();
  const auto work = [&](int, std::int64_t) {
    if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  EXPECT_FALSE(parallel_for(2, 1 << 20, work, [](double) { return false; }));
}

TEST_P(AskingTest, LeavesNothingBehindOnThreads) {
  {
    const Asking asking([] { return false; });
    EXPECT_THROW(parallel_for(4, 64, [](int, std::int64_t) { endless_piece(); }), Stopped);
  }
  EXPECT_EQ(Asking::of_thread(), nullptr);
  std::atomic<int> done = 0;
  EXPECT_TRUE(parallel_for(4, 64, [&](int, std::int64_t) {
    go_on_or_throw();
    ++done;
  }));
  EXPECT_EQ(done, 64);
}

INSTANTIATE_TEST_SUITE_P(Threads, AskingTest, testing::Values(OpenMp{nullptr}, OpenMp{&team_of_threads}));

}  // namespace
}  // namespace isologit::detail::base
