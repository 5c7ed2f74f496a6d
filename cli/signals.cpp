#include "cli/signals.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string_view>

namespace isologit::detail::cli {
namespace {

std::atomic<int> noted = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void note(int signal) { noted = signal; }

void on_bus_error(int, siginfo_t* info, void*) {
  if (info->si_code != BUS_ADRERR) return;  // comes again, and then ends the process
  constexpr std::string_view message =
      "isologit: a file was cut short while it was read, or cannot be read; nothing was written\n";
  [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, message.data(), message.size());
  ::_exit(kExitFailure);
}

}  // namespace

void prepare_process() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // What is opened gets the lowest number that is free. Of the output streams standard output alone must tell that
    // it is closed.
    if (::fcntl(stream, F_GETFD) >= 0 || errno != EBADF) continue;
    if (::open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY) != stream) ::_exit(kExitFailure);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_SIGINFO);
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

void note_signals() {
  for (const int signal : {SIGHUP, SIGINT, SIGTERM, SIGXCPU}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = note;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigemptyset(&action.sa_mask);
    ::sigaction(signal, &action, nullptr);
  }
}

int noted_signal() { return noted; }

Failure interrupted() { return {128 + noted_signal(), "interrupted; nothing was written"}; }

}  // namespace isologit::detail::cli
