// A line on standard error that tells how far a long call is; nothing when standard error is not a terminal.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace isologit::detail::cli {

class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress(bool enabled, Clock::time_point start) : enabled_(enabled), start_(start) {}

  // What to print at `now` when `share` of the work is done: empty in the first second and soon after the last text.
  std::string update(double share, Clock::time_point now);
  // What removes the line; empty when there is none.
  std::string clear();

 private:
  bool enabled_;
  Clock::time_point start_;
  std::optional<Clock::time_point> drawn_;
};

}  // namespace isologit::detail::cli
