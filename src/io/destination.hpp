// Where a new file may go, and what it would replace there.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Destination {
  std::string given;   // the path as it was asked for
  std::string folder;  // "." for a name alone
  std::string name;
  std::optional<struct stat> replaced;  // the regular file that is there now

  std::string path() const { return folder + "/" + name; }
};

// Follows symbolic links, also one that leads to nothing yet. What is there must be nothing, or a regular file that may
// be written to and is none of this process's standard streams: renaming over a device or a pipe would replace it.
Result<Destination> find_destination(const std::string& path);

}  // namespace isologit::detail::io
