// The files that were read, so that one can tell at the end whether they stayed what they were: a result of half of one
// model and half of another is none.
#pragma once

#include <sys/stat.h>

#include <mutex>
#include <string>
#include <vector>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// May be used by several threads at once.
class ReadFiles {
 public:
  // Those of this process.
  static ReadFiles& of_process();

  // Called with what fstat() said of a file when it was opened.
  void note(const std::string& path, const struct stat& status);

  // Whether a file that was read is this one, by whatever name.
  bool contain(const struct stat& status) const;

  // An error that names the first file which is not there any more, or is another one, or has another size or time of
  // modification than when it was opened.
  Result<void> check() const;

 private:
  struct File {
    std::string path;
    struct stat status;
  };
  mutable std::mutex mutex_;
  std::vector<File> files_;
};

}  // namespace isologit::detail::io
