// The isologit command: runs what the command line asks for and prints what that gave. One place decides exit codes.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <system_error>

#include "cli/verbs.hpp"

namespace isologit::detail::cli {
namespace {

constexpr Verb kVerbs[] = {{"score", score_verb}, {"sample", sample_verb},   {"logits", logits_verb},
                           {"info", info_verb},   {"kernels", kernels_verb}, {"bench", bench_verb}};

int report(const Failure& problem) {
  std::fputs(fmt::format("isologit: {}\n", problem.message).c_str(), stderr);
  return problem.exit_code;
}

int print(const std::string& text) {
  const bool printed = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (printed) return 0;
  return report(
      {kExitFailure, fmt::format("cannot write to standard output: {}", std::generic_category().message(errno))});
}

int run(int argc, char** argv) {
  try {
    const Outcome<std::string> outcome = run_command_line(kVerbs, argc, argv);
    return outcome ? print(*outcome) : report(outcome.error());
  } catch (const std::bad_alloc&) {
    return report({kExitFailure, "out of memory"});
  } catch (const std::exception& error) {
    return report({kExitFailure, fmt::format("unexpected: {}", error.what())});
  }
}

}  // namespace
}  // namespace isologit::detail::cli

int main(int argc, char** argv) { return isologit::detail::cli::run(argc, argv); }
