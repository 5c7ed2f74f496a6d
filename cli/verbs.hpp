// The verbs of the command. A new one is a file, a function here and a line in main.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

struct Verb {
  CLI::App* command;
  std::function<Outcome<std::string>()> run;  // call it when the command was given
};

// Each adds its subcommand with its options to app.
Verb score_verb(CLI::App& app);
Verb sample_verb(CLI::App& app);
Verb logits_verb(CLI::App& app);
Verb info_verb(CLI::App& app);
Verb kernels_verb(CLI::App& app);
Verb bench_verb(CLI::App& app);

}  // namespace isologit::detail::cli
