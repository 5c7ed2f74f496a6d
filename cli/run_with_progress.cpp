#include "cli/run_with_progress.hpp"

#include <fmt/format.h>

#include "cli/text.hpp"

namespace isologit::detail::cli {

std::string Progress::update(double share, Clock::time_point now) {
  using std::chrono::milliseconds;
  if (!enabled_ || now - start_ < milliseconds(1000) || (drawn_ && now - *drawn_ < milliseconds(200))) return "";
  drawn_ = now;
  std::string line = fmt::format("\r\x1b[K{}  {:3.0f} %", what_, 100 * share);
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

}  // namespace isologit::detail::cli
