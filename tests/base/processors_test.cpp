#include "base/processors.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <string>

#include "base/cpu.hpp"
#include "base/pinned.hpp"
#include "base/thread_pool.hpp"

namespace isologit::detail::base {
namespace {

using namespace std::chrono_literals;

class Processors : public testing::Test {
 protected:
  void SetUp() override {
    if (all_.size() < 2) GTEST_SKIP() << "needs two processors";
  }
  const std::vector<int> all_ = own_processors();
};

// The masks of all that run `threads` indices, which wait for one another, so that as many threads take part.
struct Seen {
  std::vector<std::vector<int>> masks;
  std::vector<int> ran_on;
};
Seen masks_of(int threads) {
  Seen seen{std::vector<std::vector<int>>(static_cast<std::size_t>(threads)),
            std::vector<int>(static_cast<std::size_t>(threads), -1)};
  std::atomic<int> begun = 0;
  parallel(threads, [&](int i) {
    ++begun;
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (begun < threads && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
    seen.masks[static_cast<std::size_t>(i)] = own_processors();
    seen.ran_on[static_cast<std::size_t>(i)] = sched_getcpu();
  });
  return seen;
}

void expect_all_on(const std::vector<int>& processors, const Seen& seen) {
  for (const std::vector<int>& mask : seen.masks) EXPECT_EQ(mask, processors);
  for (const int at : seen.ran_on) EXPECT_NE(std::find(processors.begin(), processors.end(), at), processors.end());
}

// The threads of the library were made for someone else, and follow whoever calls.
TEST_F(Processors, OfThePoolAreThoseOfTheCaller) {
  expect_all_on(all_, masks_of(3));
  for (const int processor : {all_.front(), all_.back()}) {
    run_pinned(processor, [&] { expect_all_on({processor}, masks_of(3)); });
  }
  expect_all_on(all_, masks_of(3));
}

TEST_F(Processors, OfAnExplicitSetAreUsedFromAPinnedThread) {
  run_pinned(all_.front(), [&] {
    expect_all_on({all_.front()}, masks_of(3));
    for (const std::vector<int>& wanted : {all_, std::vector<int>{all_.back()}}) {
      const auto scope = ProcessorScope::enter(wanted);
      ASSERT_TRUE(scope) << scope.error().message;
      EXPECT_EQ(available_processors(), static_cast<int>(wanted.size()));
      expect_all_on(wanted, masks_of(3));
    }
    EXPECT_EQ(own_processors(), std::vector<int>{all_.front()});
    EXPECT_EQ(available_processors(), 1);
  });
}

TEST_F(Processors, AreASet) {
  run_pinned(all_.front(), [&] {
    std::vector<int> twice(all_.rbegin(), all_.rend());
    twice.insert(twice.end(), all_.begin(), all_.end());
    ASSERT_TRUE(ProcessorScope::enter(twice));
    const auto scope = ProcessorScope::enter(twice);
    EXPECT_EQ(own_processors(), all_);
  });
}

TEST_F(Processors, OfNoSetAreLeftAlone) {
  const auto scope = ProcessorScope::enter(std::nullopt);
  ASSERT_TRUE(scope);
  EXPECT_EQ(own_processors(), all_);
}

TEST_F(Processors, ThatCannotBeUsedAreNamed) {
  const auto expect_refused = [&](const std::vector<int>& processors, const std::string& words) {
    const auto scope = ProcessorScope::enter(processors);
    ASSERT_FALSE(scope) << words;
    EXPECT_EQ(scope.error().code, StatusCode::invalid_argument);
    EXPECT_NE(scope.error().message.find(words), std::string::npos) << scope.error().message;
    EXPECT_EQ(own_processors(), all_);
  };
  expect_refused({}, "processors: an empty set");
  expect_refused({all_.front(), -1}, "processors: -1; expected numbers from 0");
  expect_refused({1 << 20}, "processors: 1048576; expected numbers from 0");
  const int absent = (1 << 20) - 1;  // no machine has so many
  expect_refused({absent}, "processors: " + std::to_string(absent) + " is not one that the system lets this process");
  expect_refused({all_.front(), absent}, "processors: " + std::to_string(absent) + " is not one");
}

}  // namespace
}  // namespace isologit::detail::base
