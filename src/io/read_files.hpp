// The files that this process has read, so that it can tell at the end whether they stayed what they were: a result of
// half of one model and half of another is none.
#pragma once

#include <sys/stat.h>

#include <string>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// Called with what fstat() said of a file when it was opened.
void note_read_file(const std::string& path, const struct stat& status);

// Whether a file that was read is this one, by whatever name.
bool was_read(const struct stat& status);

// An error that names the first file which is not there any more, or is another one, or has another size or time of
// modification than when it was opened.
Result<void> check_read_files();

}  // namespace isologit::detail::io
