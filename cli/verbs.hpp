// The verbs of the command. A new one is a file, a function here and a line in main.cpp.
#pragma once

#include "cli/command_line.hpp"

namespace isologit::detail::cli {

// Each says what the verb is for, declares its options, and gives what to call once they are read.
VerbRun score_verb(Options& options);
VerbRun sample_verb(Options& options);
VerbRun logits_verb(Options& options);
VerbRun info_verb(Options& options);
VerbRun kernels_verb(Options& options);
VerbRun bench_verb(Options& options);
VerbRun verify_verb(Options& options);

}  // namespace isologit::detail::cli
