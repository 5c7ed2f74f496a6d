#include "process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

namespace isologit::test {
namespace {

// Reads both until the other end of each is closed; on_text is called whenever text came.
void read_all(int out, std::string& out_text, int err, std::string& err_text, const std::function<void()>& on_text) {
  std::array<pollfd, 2> ends = {pollfd{out, POLLIN, 0}, pollfd{err, POLLIN, 0}};
  std::array<std::string*, 2> texts = {&out_text, &err_text};
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    ASSERT_GT(::poll(ends.data(), ends.size(), 120'000), 0) << "the command hangs";
    for (std::size_t i = 0; i < 2; ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      std::array<char, 4096> buffer{};
      const ssize_t count = ::read(ends[i].fd, buffer.data(), buffer.size());
      if (count <= 0) {  // the far end of a terminal reports EIO when it is closed
        ::close(ends[i].fd);
        ends[i].fd = -1;
        continue;
      }
      texts[i]->append(buffer.data(), static_cast<std::size_t>(count));
      on_text();
    }
  }
}

[[noreturn]] void become_command(const std::vector<std::string>& arguments, int out, int err,
                                 const std::function<void()>& prepare) {
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  if (prepare) prepare();
  std::vector<char*> words;
  std::string command = ISOLOGIT_COMMAND;
  words.push_back(command.data());
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) words.push_back(argument.data());
  words.push_back(nullptr);
  ::execv(command.c_str(), words.data());
  ::_exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

Finished run_command(const std::vector<std::string>& arguments, const std::function<void()>& prepare) {
  std::array<int, 2> out{};
  std::array<int, 2> err{};
  Finished finished;
  if (::pipe2(out.data(), O_CLOEXEC) != 0 || ::pipe2(err.data(), O_CLOEXEC) != 0) return finished;
  const pid_t child = ::fork();
  if (child == 0) become_command(arguments, out[1], err[1], prepare);
  ::close(out[1]);
  ::close(err[1]);
  read_all(out[0], finished.out, err[0], finished.err, [] {});
  finished.exit_code = wait_for(child);
  return finished;
}

Finished interrupt_command(const std::vector<std::string>& arguments, const std::string& awaited) {
  Finished finished;
  std::array<int, 2> out{};
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0) return finished;
  const int near_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (near_end < 0 || ::pipe2(out.data(), O_CLOEXEC) != 0) return finished;
  const pid_t child = ::fork();
  if (child == 0) become_command(arguments, out[1], near_end, {});
  ::close(out[1]);
  ::close(near_end);
  bool sent = false;
  read_all(out[0], finished.out, terminal, finished.err, [&] {
    if (sent || finished.err.find(awaited) == std::string::npos) return;
    ::kill(child, SIGINT);
    sent = true;
  });
  finished.exit_code = wait_for(child);
  return finished;
}

}  // namespace isologit::test
