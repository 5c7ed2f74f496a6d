// A file that is complete or not there at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "io/destination.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

// A new file beside its destination, removed again unless move() put it there. Should the process be killed, the next
// one that writes to the folder removes what it left: a file that is being written is locked.
class NewFile {
 public:
  // Fails where the owner of what is replaced could not be kept.
  static Result<NewFile> create(const Destination& destination);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  Result<void> write(std::span<const std::byte> bytes);
  // All is written: what can still fail fails here, so that move() hardly can.
  Result<void> complete();
  Result<void> move();

 private:
  explicit NewFile(Destination destination) : destination_(std::move(destination)) {}
  tl::unexpected<Error> failure(const char* what, int error) const;
  bool open_aside(int attempt);
  bool is_aside_in_place() const;

  Destination destination_;
  std::string aside_;  // empty when there is nothing to remove
  int fd_ = -1;
};

}  // namespace isologit::detail::io
