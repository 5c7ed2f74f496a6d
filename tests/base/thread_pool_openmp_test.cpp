// parallel() on the threads of a program's OpenMP, whose GOMP_parallel these tests bring along.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/processors.hpp"
#include "base/thread_pool.hpp"
#include "team.hpp"

namespace isologit::detail::base {
namespace {

std::atomic<int> regions = 0;

void all_threads(void (*work)(void*), void* data, unsigned threads, unsigned flags) {
  ++regions;
  team_of_threads(work, data, threads, flags);
}

// What OpenMP may do where threads are limited.
void the_caller_alone(void (*work)(void*), void* data, unsigned, unsigned) {
  ++regions;
  work(data);
}

class OpenMpTest : public testing::TestWithParam<OpenMp> {
 protected:
  OpenMpTest() {
    regions = 0;
    use_openmp(GetParam());
  }
  ~OpenMpTest() override { use_openmp(nullptr); }
};

TEST_P(OpenMpTest, RunsEveryIndexOnceAndTheFirstOnTheCaller) {
  for (const int threads : {2, 3, 7, 64}) {
    std::vector<int> runs(static_cast<std::size_t>(threads), 0);
    std::thread::id zero;
    parallel(threads, [&](int i) {
      ++runs[static_cast<std::size_t>(i)];
      if (i == 0) zero = std::this_thread::get_id();
    });
    EXPECT_EQ(runs, std::vector<int>(runs.size(), 1));
    EXPECT_EQ(zero, std::this_thread::get_id());
  }
  EXPECT_EQ(regions, 4);
}

TEST_P(OpenMpTest, RethrowsTheExceptionOfTheLowestIndexWhenAllHaveRun) {
  std::atomic<int> runs = 0;
  try {
    parallel(8, [&runs](int i) {
      ++runs;
      if (i > 2) throw std::runtime_error(std::to_string(i));
    });
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "3");
  }
  EXPECT_EQ(runs, 8);
}

TEST_P(OpenMpTest, RunsNestedCallsOnTheirOwnThread) {
  std::atomic<int> elsewhere = 0;
  parallel(4, [&elsewhere](int) {
    const std::thread::id own = std::this_thread::get_id();
    parallel(3, [&](int) { elsewhere += std::this_thread::get_id() != own ? 1 : 0; });
  });
  EXPECT_EQ(elsewhere, 0);
  EXPECT_EQ(regions, 1);
}

TEST_P(OpenMpTest, AThreadOfItsTeamMayCallAfterwards) {
  std::atomic<int> runs = 0;
  parallel(2, [](int) {});
  std::thread([&runs] { parallel(2, [&runs](int) { ++runs; }); }).join();
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(regions, 2);
}

TEST_P(OpenMpTest, ChildrenRunOnTheLibrarysThreads) {
  if (std::string_view(SANITIZERS).find("thread") != std::string_view::npos) {
    GTEST_SKIP() << "the thread sanitizer does not support threads in such a child";
  }
  parallel(2, [](int) {});
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::atomic<int> runs = 0;
    parallel(2, [&runs](int) { ++runs; });
    _exit(runs == 2 && regions == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A team as an engine binds it: where its threads but the caller run.
std::unique_ptr<const ProcessorSet> bound_to;

void bound_threads(void (*work)(void*), void* data, unsigned threads, unsigned) {
  ++regions;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back([work, data] {
      EXPECT_TRUE(bound_to->apply());
      work(data);
    });
  }
  work(data);
  for (std::thread& other : others) other.join();
}

class BoundOpenMp : public testing::Test {
 protected:
  void SetUp() override {
    const auto own = ProcessorSet::of_thread();
    if (own == nullptr || own->count() < 2) GTEST_SKIP() << "the thread may run on one processor alone";
    while (!own->has(first_)) ++first_;
    second_ = first_ + 1;
    while (!own->has(second_)) ++second_;
    own_ = std::make_unique<const ProcessorSet>(*own);
    regions = 0;
    use_openmp(&bound_threads);
  }
  void TearDown() override {
    use_openmp(nullptr);
    if (own_ != nullptr) own_->apply();
  }

  int first_ = 0, second_ = 0;
  std::unique_ptr<const ProcessorSet> own_;
};

TEST_F(BoundOpenMp, CallsThatAskForItsProcessorsRunOnIt) {
  ASSERT_TRUE(ProcessorSet({first_}).apply());  // as an engine binds the calling thread
  bound_to = std::make_unique<const ProcessorSet>(std::vector<int>{second_});
  const auto scope = ProcessorScope::enter(std::vector<int>{first_, second_});
  ASSERT_TRUE(scope);
  for (int call = 0; call < 3; ++call) {
    std::atomic<int> runs = 0;
    parallel(2, [&runs](int) { ++runs; });
    EXPECT_EQ(runs, 2);
    EXPECT_EQ(regions, 2 + call);  // one to look where the threads are
  }
}

TEST_F(BoundOpenMp, CallsThatAskForOtherProcessorsRunOnTheLibrarysThreads) {
  bound_to = std::make_unique<const ProcessorSet>(*own_);
  const auto scope = ProcessorScope::enter(std::vector<int>{first_});
  ASSERT_TRUE(scope);
  for (int call = 0; call < 3; ++call) {
    parallel(2, [](int) {});
    EXPECT_EQ(regions, 1);
  }
}

TEST_F(BoundOpenMp, NorOnThreadsThatShareOneOfTheProcessors) {
  bound_to = std::make_unique<const ProcessorSet>(std::vector<int>{second_});
  ASSERT_TRUE(ProcessorSet({first_}).apply());
  const auto scope = ProcessorScope::enter(std::vector<int>{first_, second_});
  ASSERT_TRUE(scope);
  for (int call = 0; call < 3; ++call) {
    parallel(3, [](int) {});
    EXPECT_EQ(regions, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Teams, OpenMpTest, testing::Values(&all_threads, &the_caller_alone));

}  // namespace
}  // namespace isologit::detail::base
