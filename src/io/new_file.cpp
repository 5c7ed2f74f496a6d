#include "io/new_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/text.hpp"

namespace isologit::detail::io {

tl::unexpected<Error> NewFile::failure(const char* what, int error) const {
  return fail(StatusCode::io_error,
              base::concat("cannot ", what, " ", base::in_quotes(path_), ": ", base::errno_text(error)));
}

Result<NewFile> NewFile::create(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    // Renaming over a device or a pipe would replace it.
    return fail(StatusCode::invalid_argument, base::concat("cannot write ", base::in_quotes(path),
                                                           ": it exists and is not a regular file; name a file"));
  }
  NewFile file(path);
  for (int attempt = 0;; ++attempt) {
    std::string name = base::concat(path, ".tmp-", ::getpid(), "-", attempt);
    file.fd_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.fd_ >= 0) {
      file.aside_ = std::move(name);
      return file;
    }
    if (errno != EEXIST || attempt == 100) return file.failure("create", errno);
  }
}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)), aside_(std::exchange(other.aside_, {})), fd_(std::exchange(other.fd_, -1)) {}

NewFile::~NewFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!aside_.empty()) ::unlink(aside_.c_str());
}

Result<void> NewFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return failure("write", written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Result<void> NewFile::finish() {
  if (::fsync(fd_) != 0) return failure("write", errno);
  if (::close(std::exchange(fd_, -1)) != 0) return failure("write", errno);
  if (::rename(aside_.c_str(), path_.c_str()) != 0) return failure("create", errno);
  aside_.clear();
  return {};
}

}  // namespace isologit::detail::io
