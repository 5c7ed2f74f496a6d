// A long call of the library as a verb makes it: with a progress line, stopped by Ctrl-C, timed.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <string>

#include "cli/outcome.hpp"
#include "cli/signals.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

// A line on standard error that tells how far a call is; nothing when standard error is not a terminal.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress(bool enabled, Clock::time_point start, const char* what = "scoring")
      : enabled_(enabled), start_(start), what_(what) {}

  // What to print at `now` when `share` of the work is done: empty in the first second and soon after the last text.
  std::string update(double share, Clock::time_point now);
  // What removes the line; empty when there is none.
  std::string clear();

 private:
  bool enabled_;
  Clock::time_point start_;
  const char* what_;
  std::optional<Clock::time_point> drawn_;
};

// call(options) returns a Result of a report, which goes to `report`; the time it took goes to `seconds`.
template <class Call, class Report>
Outcome<void> run_with_progress(ScoreOptions options, Call&& call, Report& report, double& seconds) {
  const auto start = Progress::Clock::now();
  Progress progress(::isatty(STDERR_FILENO) == 1, start);
  options.progress = [&progress](double share) {
    std::fputs(progress.update(share, Progress::Clock::now()).c_str(), stderr);
    return noted_signal() == 0;
  };
  const auto result = call(options);
  std::fputs(progress.clear().c_str(), stderr);
  if (!result && result.error().code == StatusCode::cancelled) {
    return tl::unexpected(interrupted());
  }
  if (!result) return failure(result.error());
  report = *result;
  seconds = std::chrono::duration<double>(Progress::Clock::now() - start).count();
  return {};
}

}  // namespace isologit::detail::cli
