// A whole file as read-only memory. Pages are read when touched, so a large file costs no memory of its own.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "isologit/status.hpp"

namespace isologit::detail::io {

class MappedFile {
 public:
  // An empty file, a directory or anything else that is not a regular file is an error.
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Stays where it is when the object is moved.
  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;
};

}  // namespace isologit::detail::io
