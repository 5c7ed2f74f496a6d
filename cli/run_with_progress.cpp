#include "cli/run_with_progress.hpp"

#include <fmt/format.h>

#include <atomic>

#include "cli/text.hpp"

namespace isologit::detail::cli {
namespace {

std::atomic<int> noted = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void note(int signal) { noted = signal; }

}  // namespace

std::string Progress::update(double share, Clock::time_point now) {
  using std::chrono::milliseconds;
  if (!enabled_ || now - start_ < milliseconds(1000) || (drawn_ && now - *drawn_ < milliseconds(200))) return "";
  drawn_ = now;
  std::string line = fmt::format("\r\x1b[Kscoring  {:3.0f} %", 100 * share);
  if (share > 0 && share < 1) {
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    line += fmt::format("  {} left", duration_text(elapsed / share * (1 - share)));
  }
  return line;
}

std::string Progress::clear() {
  if (!drawn_) return "";
  drawn_.reset();
  return "\r\x1b[K";
}

InterruptGuard::InterruptGuard() {
  noted = 0;
  struct sigaction action {};
  action.sa_handler = note;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_int_);
  ::sigaction(SIGTERM, &action, &old_term_);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &old_int_, nullptr);
  ::sigaction(SIGTERM, &old_term_, nullptr);
}

int InterruptGuard::signal_number() { return noted; }

}  // namespace isologit::detail::cli
