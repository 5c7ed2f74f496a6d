// A long call of the library as a verb makes it: with a progress line, stopped by Ctrl-C, timed.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "cli/interrupt.hpp"
#include "cli/outcome.hpp"
#include "cli/progress.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

// call(options) returns a Result of a report, which goes to `report`; the time it took goes to `seconds`.
template <class Call, class Report>
Outcome<void> watched(ScoreOptions options, Call&& call, Report& report, double& seconds) {
  const auto start = Progress::Clock::now();
  Progress progress(::isatty(STDERR_FILENO) == 1, start);
  options.progress = [&progress](double share) {
    std::fputs(progress.update(share, Progress::Clock::now()).c_str(), stderr);
    return InterruptGuard::signal_number() == 0;
  };
  const auto result = call(options);
  std::fputs(progress.clear().c_str(), stderr);
  if (!result && result.error().code == StatusCode::cancelled) {
    return tl::unexpected(Failure{128 + InterruptGuard::signal_number(), "interrupted; nothing was written"});
  }
  if (!result) return failure(result.error());
  report = *result;
  seconds = std::chrono::duration<double>(Progress::Clock::now() - start).count();
  return {};
}

}  // namespace isologit::detail::cli
