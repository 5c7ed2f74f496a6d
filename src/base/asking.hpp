// Whether to go on: asked now and then on the thread that made a call, in every phase of it.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <thread>

namespace isologit::detail::base {

// Thrown by work that was told to stop.
struct Stopped : std::exception {
  const char* what() const noexcept override { return "stopped"; }
};

// While one lives, the work of its thread asks it: parallel_for between its pieces and while it waits for other
// threads, and loops within pieces by go_on_or_throw(). The threads that help with the work see the answer.
class Asking {
 public:
  explicit Asking(std::function<bool()> go_on);

  // That of the call which the calling thread works for, or null.
  static Asking* of_thread();

  // While one lives, its thread works for that call.
  class Help {
   public:
    explicit Help(Asking* asking);
    ~Help();
    Help(const Help&) = delete;
    Help& operator=(const Help&) = delete;

   private:
    Asking* outer_;
  };

  // On the thread that made the call, where that was last done a while ago: asks. Once the answer was no, it stays
  // that.
  void ask_if_due();
  // Someone was told so by another way.
  void stop() { stopped_ = true; }
  // Someone has just asked by another way.
  void asked() { last_ = Clock::now(); }
  // May be looked at by any thread.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  static constexpr std::chrono::milliseconds kEvery{50};  // a person does not notice, and no work is slowed

 private:
  using Clock = std::chrono::steady_clock;
  std::function<bool()> go_on_;
  std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point last_ = Clock::now();
  std::atomic<bool> stopped_ = false;
  Help help_;
};

// In a loop, on any thread that works for a call, every few milliseconds or oftener: throws Stopped where it is to end.
void go_on_or_throw();

}  // namespace isologit::detail::base
