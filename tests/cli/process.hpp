// Runs the isologit command as a process of its own.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace isologit::test {

struct Finished {
  int exit_code = -1;  // -1 when a signal ended it
  std::string out;
  std::string err;
};

// prepare runs in the child before the command starts: limits, environment, standard streams. Only there do the
// effects of what it does stay.
Finished run_command(const std::vector<std::string>& arguments, const std::function<void()>& prepare = {});

// Standard error is a terminal. Sends SIGINT once `awaited` was seen there; err is what was shown.
Finished interrupt_command(const std::vector<std::string>& arguments, const std::string& awaited);

}  // namespace isologit::test
