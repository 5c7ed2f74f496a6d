#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/read_files.hpp"

namespace isologit::detail::io {
namespace {

tl::unexpected<Error> system_failure(const std::string& path, const char* what, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  return fail(missing ? StatusCode::not_found : StatusCode::io_error,
              base::concat("cannot ", what, " ", base::in_quotes(path), ": ", base::errno_text(error)));
}

struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  return guarded("opening a file", [&]() -> Result<MappedFile> {
    // O_NONBLOCK: a named pipe is refused below instead of being waited for.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return system_failure(path, "open", errno);
    const Descriptor closer{fd};
    struct stat status {};
    if (::fstat(fd, &status) != 0) return system_failure(path, "inspect", errno);
    if (S_ISDIR(status.st_mode)) {
      return fail(StatusCode::invalid_argument,
                  base::concat(base::in_quotes(path), " is a directory, expected a file"));
    }
    if (!S_ISREG(status.st_mode)) {
      return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(path), " is not a regular file"));
    }
    if (status.st_size == 0)
      return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(path), " is empty"));
    const auto size = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) return system_failure(path, "map", errno);
    MappedFile file({static_cast<const std::byte*>(address), size});
    ReadFiles::of_process().note(path, status);
    return file;
  });
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::string_view MappedFile::text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

}  // namespace isologit::detail::io
