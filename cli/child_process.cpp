#include "cli/child_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <thread>
#include <utility>

#include "cli/signals.hpp"

extern char** environ;

namespace isologit::detail::cli {
namespace {

constexpr std::size_t kMostLine = 1U << 20U;  // what is longer is no answer
constexpr int kSliceMs = 100;                 // a signal that comes just before poll() is seen after so long
constexpr std::chrono::seconds kGrace{2};     // between the end of its output and its own

std::string error_text(int error) { return std::generic_category().message(error); }

// Both ends are closed in what is started, but for what it is given as standard streams.
Outcome<std::pair<int, int>> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return failure(fmt::format("cannot make a pipe: {}", error_text(errno)));
  return std::pair{ends[0], ends[1]};
}

int spawn(const std::vector<std::string>& command, int in, int out, pid_t& pid) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  const int error = ::posix_spawnp(&pid, arguments[0], &files, &attributes, arguments.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  return error;
}

}  // namespace

Outcome<ChildProcess> ChildProcess::start(const std::vector<std::string>& command, std::chrono::seconds patience) {
  const auto to_child = make_pipe();
  if (!to_child) return tl::unexpected(to_child.error());
  const auto from_child = make_pipe();
  if (!from_child) {
    ::close(to_child->first);
    ::close(to_child->second);
    return tl::unexpected(from_child.error());
  }
  pid_t pid = -1;
  const int error = spawn(command, to_child->first, from_child->second, pid);
  ::close(to_child->first);
  ::close(from_child->second);
  ChildProcess child(command[0], error == 0 ? pid : -1, to_child->second, from_child->first, patience);
  if (error != 0) return failure(fmt::format("'{}' cannot be run: {}", command[0], error_text(error)));
  for (const int stream : {child.in_, child.out_}) ::fcntl(stream, F_SETFL, O_NONBLOCK);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(std::exchange(other.pid_, -1)),
      in_(std::exchange(other.in_, -1)),
      out_(std::exchange(other.out_, -1)),
      patience_(other.patience_),
      buffered_(std::move(other.buffered_)) {}

ChildProcess::~ChildProcess() {
  if (in_ >= 0) ::close(in_);
  if (out_ >= 0) ::close(out_);
  if (pid_ < 0) return;
  ::kill(-pid_, SIGKILL);  // what it has started too
  ::waitpid(pid_, nullptr, 0);
}

Outcome<void> ChildProcess::wait(int stream, short events, Clock::time_point deadline) const {
  for (;;) {
    if (noted_signal() != 0) return tl::unexpected(interrupted());
    if (Clock::now() > deadline) {
      return failure(fmt::format("'{}' has not answered for {} s", name_, patience_.count()));
    }
    pollfd polled{stream, events, 0};
    const int ready = ::poll(&polled, 1, kSliceMs);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return failure(fmt::format("cannot wait for '{}': {}", name_, error_text(errno)));
  }
}

Failure ChildProcess::ended() {
  int status = 0;
  for (const auto begin = Clock::now(); ::waitpid(pid_, &status, WNOHANG) == 0;) {
    if (Clock::now() - begin > kGrace) return {kExitFailure, fmt::format("'{}' has closed its output", name_)};
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  if (WIFSIGNALED(status)) {
    return {kExitFailure,
            fmt::format("'{}' was ended by signal {} ({})", name_, WTERMSIG(status), ::strsignal(WTERMSIG(status)))};
  }
  return {kExitFailure, fmt::format("'{}' has ended with exit status {}", name_, WEXITSTATUS(status))};
}

Outcome<void> ChildProcess::write(std::string_view bytes) {
  const auto deadline = Clock::now() + patience_;
  while (!bytes.empty()) {
    if (const auto ready = wait(in_, POLLOUT, deadline); !ready) return ready;
    const ssize_t count = ::write(in_, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EPIPE) {
      return tl::unexpected(ended());
    } else if (errno != EAGAIN && errno != EINTR) {
      return failure(fmt::format("cannot write to '{}': {}", name_, error_text(errno)));
    }
  }
  return {};
}

Outcome<void> ChildProcess::read_more(Clock::time_point deadline) {
  if (const auto ready = wait(out_, POLLIN, deadline); !ready) return ready;
  char some[1U << 16U];
  const ssize_t count = ::read(out_, some, sizeof some);
  if (count == 0) return tl::unexpected(ended());
  if (count > 0) {
    buffered_.append(some, static_cast<std::size_t>(count));
  } else if (errno != EAGAIN && errno != EINTR) {
    return failure(fmt::format("cannot read from '{}': {}", name_, error_text(errno)));
  }
  return {};
}

Outcome<std::string> ChildProcess::read_line() {
  const auto deadline = Clock::now() + patience_;
  std::size_t end = 0;
  while ((end = buffered_.find('\n')) == std::string::npos) {
    if (buffered_.size() > kMostLine) return failure(fmt::format("'{}' has answered without an end of line", name_));
    if (const auto more = read_more(deadline); !more) return tl::unexpected(more.error());
  }
  std::string line = buffered_.substr(0, end);
  buffered_.erase(0, end + 1);
  return line;
}

Outcome<std::string> ChildProcess::read(std::size_t count) {
  const auto deadline = Clock::now() + patience_;
  while (buffered_.size() < count) {
    if (const auto more = read_more(deadline); !more) return tl::unexpected(more.error());
  }
  std::string bytes = buffered_.substr(0, count);
  buffered_.erase(0, count);
  return bytes;
}

}  // namespace isologit::detail::cli
