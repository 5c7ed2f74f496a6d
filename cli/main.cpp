// The isologit command: reads the command line, runs the verb, prints what it gave. One place decides exit codes.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <sstream>
#include <system_error>

#include "cli/verbs.hpp"
#include "isologit/version.hpp"

namespace isologit::detail::cli {
namespace {

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

// --help and --version end parsing as well, with code 0.
int end_parsing(const CLI::App& app, const CLI::ParseError& end) {
  if (end.get_exit_code() == 0) {
    std::ostringstream out;
    app.exit(end, out, out);
    return print(out.str());
  }
  std::string command = "isologit";
  for (const CLI::App* verb : app.get_subcommands()) command += " " + verb->get_name();
  return report({kExitUsage, fmt::format("{}\nRun '{} --help' for how it is used.", end.what(), command)});
}

int run(int argc, char** argv) {
  CLI::App app(
      "The last layer of a language model with one right answer: every result is the real number, rounded once",
      "isologit");
  app.set_version_flag("--version", "isologit " ISOLOGIT_VERSION);
  app.require_subcommand(1);
  const Verb verbs[] = {score_verb(app), sample_verb(app),  logits_verb(app),
                        info_verb(app),  kernels_verb(app), bench_verb(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& end) {
    return end_parsing(app, end);
  }
  for (const Verb& verb : verbs) {
    if (!verb.command->parsed()) continue;
    const Outcome<std::string> outcome = verb.run();
    return outcome ? print(*outcome) : report(outcome.error());
  }
  return kExitUsage;
}

}  // namespace
}  // namespace isologit::detail::cli

int main(int argc, char** argv) {
  using isologit::detail::cli::kExitFailure;
  using isologit::detail::cli::report;
  try {
    return isologit::detail::cli::run(argc, argv);
  } catch (const std::bad_alloc&) {
    return report({kExitFailure, "out of memory"});
  } catch (const std::exception& error) {
    return report({kExitFailure, fmt::format("unexpected: {}", error.what())});
  }
}
