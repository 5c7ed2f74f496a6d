// The file that a verb writes, and how a run ends: in one place for all verbs, so that after any exit code but 0
// nothing was written.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cli/outcome.hpp"
#include "io/new_file.hpp"

namespace isologit::detail::cli {

// What a verb has made. The file, if there is one, is written but not yet in its place.
struct Ending {
  std::string text;  // for standard output
  std::optional<io::NewFile> file;
  int exit_code = 0;  // where the text itself says that something is wrong
};

// What --output asks for: begun before anything is computed, so that a destination that does not do is told then. It
// may not be an input that was opened, nor lie in the model's folder.
Outcome<std::optional<io::NewFile>> begin_output(const std::optional<std::string>& output,
                                                 const std::string& model_folder);

// What run() gives, or what it throws as a failure.
Outcome<Ending> caught(const std::function<Outcome<Ending>()>& run);

// Puts out what was made: the text, and then, once that is told, the file. Gives the exit code.
int end_run(Outcome<Ending> ending);

}  // namespace isologit::detail::cli
