// What the process does about signals and its standard streams.
#pragma once

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

// To be called first. Streams that are closed become ones that take nothing, or what is opened next would get their
// numbers. Writing to a pipe that nobody reads, or past the limit on the size of files, is an error of the write. A
// mapped file that was cut short ends the process with a message.
void prepare_process();

// From here on the first SIGHUP, SIGINT, SIGTERM or SIGXCPU is only noted, unless it is ignored; a second one ends the
// process at once.
void note_signals();

// The signal that came, 0 when none did.
int noted_signal();

// How a run ends that was stopped by it.
Failure interrupted();

}  // namespace isologit::detail::cli
