// A file that is complete or not there at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// A new file beside its final place, removed again unless finish() moved it there.
class NewFile {
 public:
  // What is at path must be nothing or a regular file.
  static Result<NewFile> create(const std::string& path);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  Result<void> write(std::span<const std::byte> bytes);
  Result<void> finish();

 private:
  explicit NewFile(std::string path) : path_(std::move(path)) {}
  tl::unexpected<Error> failure(const char* what, int error) const;

  std::string path_;
  std::string aside_;  // empty when there is nothing to remove
  int fd_ = -1;
};

}  // namespace isologit::detail::io
