// Whether to go on: asked now and then on the thread that made a call, in every phase of it.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>

namespace isologit::detail::base {

// Thrown on the thread that made the call, by work that was told to stop.
struct Stopped : std::exception {
  const char* what() const noexcept override { return "stopped"; }
};

// While one lives, the work of its thread asks it: parallel_for between its pieces and while it waits for other
// threads, and serial loops by go_on_or_throw().
class Asking {
 public:
  explicit Asking(std::function<bool()> go_on);
  ~Asking();
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  // That of the calling thread, or null.
  static Asking* of_thread();

  // Asks where that was last done a while ago. Once the answer was no, it stays that.
  void ask_if_due();
  // Someone has just asked by another way.
  void asked() { last_ = Clock::now(); }
  // May be looked at by any thread.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  static constexpr std::chrono::milliseconds kEvery{50};  // a person does not notice, and no work is slowed

 private:
  using Clock = std::chrono::steady_clock;
  std::function<bool()> go_on_;
  Asking* outer_;
  Clock::time_point last_ = Clock::now();
  std::atomic<bool> stopped_ = false;
};

// In a serial loop, every few milliseconds or oftener.
void go_on_or_throw();

}  // namespace isologit::detail::base
