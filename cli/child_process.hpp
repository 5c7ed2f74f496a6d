// A command that this process starts, writes to and reads from. It ends with the object.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

class ChildProcess {
 public:
  // Looked for in PATH. Its standard error is this process's. Ctrl-C does not reach it: whoever waits for it is
  // interrupted, and then ends it. `patience` is how long it may keep one waiting.
  static Outcome<ChildProcess> start(const std::vector<std::string>& command, std::chrono::seconds patience);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  // These fail when the command has ended, keeps one waiting too long, or a signal was noted.
  Outcome<void> write(std::string_view bytes);
  Outcome<std::string> read_line();  // without its end
  Outcome<std::string> read(std::size_t count);

 private:
  using Clock = std::chrono::steady_clock;

  ChildProcess(std::string name, pid_t pid, int in, int out, std::chrono::seconds patience)
      : name_(std::move(name)), pid_(pid), in_(in), out_(out), patience_(patience) {}

  // Until the stream is ready for `events`.
  Outcome<void> wait(int stream, short events, Clock::time_point deadline) const;
  // Adds what is there to what is buffered.
  Outcome<void> read_more(Clock::time_point deadline);
  Failure ended();  // how

  std::string name_;
  pid_t pid_;
  int in_, out_;
  std::chrono::seconds patience_;
  std::string buffered_;
};

}  // namespace isologit::detail::cli
