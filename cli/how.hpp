// The options that say how logits are computed, shared by the verbs that compute them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/outcome.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

struct How {
  int threads = 0;
  std::string kernel;
  std::string arithmetic = "exact";

  // Adds --threads, --kernel and --arithmetic.
  void add_to(CLI::App& command);
  // What was given, or what is wrong with it.
  Outcome<ScoreOptions> options() const;
};

// "avx2, threads 2, exact arithmetic"
std::string how_text(const std::string& kernel, int threads, Arithmetic arithmetic);

}  // namespace isologit::detail::cli
