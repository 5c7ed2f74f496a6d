// Functions that run in turns, each on a stack of its own and each a thread to the thread sanitizer. What two of them
// reach without a meeting that orders it is so reported, in whatever order it happened.
#pragma once

#include <sanitizer/tsan_interface.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

// Of the sanitizer's library, which has no header for them.
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace isologit::detail::cuda {

// While it lives the sanitizer overlooks what the thread reads and writes.
class Overlooked {
 public:
  Overlooked() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Overlooked() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  Overlooked(const Overlooked&) = delete;
  Overlooked& operator=(const Overlooked&) = delete;
};

// And what is not to be overlooked within that.
class Noticed {
 public:
  Noticed() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  ~Noticed() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  Noticed(const Noticed&) = delete;
  Noticed& operator=(const Noticed&) = delete;
};

// A place where some fibers wait for one another, again and again.
struct Meeting {
  const char* what = "";
  int arrived = 0;
  unsigned passed = 0;
  char order[2];  // for the sanitizer: who is through may come again before the last has left
};

class Fibers {
 public:
  // Runs f(0) to f(count - 1) until all have ended. What was released to `begun` is ordered before what they do, and
  // that before what the caller does who has acquired `ended`.
  void run(int count, const std::function<void(int)>& f, char* begun, char* ended) {
    f_ = &f;
    begun_ = begun;
    ended_ = ended;
    caller_ = __tsan_get_current_fiber();
    running_ = this;
    while (fibers_.size() < static_cast<std::size_t>(count)) add();
    for (int i = 0; i < count; ++i) fibers_[static_cast<std::size_t>(i)]->ended = false;
    while (pass()) {
    }
  }

  // Of a fiber: waits until `count` are here; the last of them calls `last` before all go on. If `orders`, what each
  // has done before is ordered before what any does after.
  template <class F>
  void meet(Meeting& meeting, int count, const char* what, bool orders, F last) {
    const Overlooked overlooked;
    if (meeting.arrived == 0) meeting.what = what;
    if (std::strcmp(meeting.what, what) != 0) give_up("threads meet for different things");
    const unsigned own = meeting.passed;
    char* order = &meeting.order[own % 2];
    if (orders) __tsan_release(order);
    if (++meeting.arrived == count) {
      last();
      meeting.arrived = 0;
      ++meeting.passed;
    } else {
      Fiber& fiber = *fibers_[now_];
      fiber.at = &meeting;
      fiber.passed = own;
      leave(fiber);
    }
    if (orders) __tsan_acquire(order);
  }

 private:
  static constexpr std::size_t kStack = std::size_t{1} << 18;
  struct Fiber {
    ucontext_t context;
    void* thread;  // to the sanitizer
    std::vector<char> stack;
    const Meeting* at = nullptr;  // where it waits
    unsigned passed = 0;          // of that, when it came
    bool ended = true;
  };

  // They are kept for the next run: to make one takes the sanitizer long.
  void add() {
    auto fiber = std::make_unique<Fiber>();
    fiber->thread = __tsan_create_fiber(0);
    fiber->stack.resize(kStack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = kStack;
    makecontext(&fiber->context, reinterpret_cast<void (*)()>(live), 0);
    fibers_.push_back(std::move(fiber));
  }

  __attribute__((no_sanitize_thread)) static void live() {
    Fibers& all = *running_;
    Fiber& own = *all.fibers_[all.now_];
    const int number = static_cast<int>(all.now_);
    while (true) {
      __tsan_acquire(all.begun_);
      (*all.f_)(number);
      __tsan_release(all.ended_);
      own.ended = true;
      all.leave(own);
    }
  }

  __attribute__((no_sanitize_thread)) void leave(Fiber& fiber) {
    __tsan_switch_to_fiber(caller_, __tsan_switch_to_fiber_no_sync);
    swapcontext(&fiber.context, &context_);
  }

  // Lets all go on that can; whether any is left.
  bool pass() {
    bool left = false;
    bool moved = false;
    for (now_ = 0; now_ < fibers_.size(); ++now_) {
      Fiber& fiber = *fibers_[now_];
      if (fiber.ended) continue;
      left = true;
      if (fiber.at != nullptr && fiber.at->passed == fiber.passed) continue;
      fiber.at = nullptr;
      moved = true;
      __tsan_switch_to_fiber(fiber.thread, __tsan_switch_to_fiber_no_sync);
      swapcontext(&context_, &fiber.context);
    }
    if (left && !moved) give_up("threads wait for others that have ended or wait elsewhere");
    return left;
  }

  [[noreturn]] static void give_up(const char* why) {
    std::fprintf(stderr, "fibers: %s\n", why);
    std::abort();
  }

  static inline thread_local Fibers* running_ = nullptr;
  const std::function<void(int)>* f_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  ucontext_t context_;
  void* caller_ = nullptr;
  char *begun_ = nullptr, *ended_ = nullptr;
  std::size_t now_ = 0;
};

}  // namespace isologit::detail::cuda
