// Ctrl-C and polite termination, as a flag that long work looks at.
#pragma once

#include <csignal>

namespace isologit::detail::cli {

// While one lives, the first SIGINT or SIGTERM is only noted; a second one ends the process at once, as without it.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // The signal that came, 0 when none did.
  static int signal_number();

 private:
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

}  // namespace isologit::detail::cli
