#include "io/new_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>
#include <utility>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

// Short, whatever the name of the destination: that may be as long as the file system allows.
constexpr std::string_view prefix = ".isologit-";
constexpr std::string_view suffix = ".tmp";
constexpr int attempts = 100;

bool is_aside_name(std::string_view name) { return name.starts_with(prefix) && name.ends_with(suffix); }

// Removes what killed processes have left: files of such a name that nobody holds a lock on.
void remove_stale(const std::string& folder) {
  DIR* const entries = ::opendir(folder.c_str());
  if (entries == nullptr) return;
  const int at = ::dirfd(entries);
  while (const dirent* entry = ::readdir(entries)) {
    if (!is_aside_name(entry->d_name)) continue;
    const int fd = ::openat(at, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    struct stat status {};
    const bool stale = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (stale) ::unlinkat(at, entry->d_name, 0);
    ::close(fd);
  }
  ::closedir(entries);
}

}  // namespace

tl::unexpected<Error> NewFile::failure(const char* what, int error) const {
  return fail(StatusCode::io_error,
              base::concat("cannot ", what, " ", base::in_quotes(destination_.given), ": ", base::errno_text(error)));
}

bool NewFile::is_aside_in_place() const {
  struct stat here {};
  struct stat there {};
  return ::fstat(fd_, &here) == 0 && ::lstat(aside_.c_str(), &there) == 0 && here.st_dev == there.st_dev &&
         here.st_ino == there.st_ino;
}

// Whether a file is there now that is this process's own. If not errno tells why, EEXIST where another name may do.
bool NewFile::open_aside(int attempt) {
  aside_ = base::concat(destination_.folder, "/", prefix, ::getpid(), "-", attempt, suffix);
  // What replaces a private file is never open to others.
  const mode_t mode = destination_.replaced ? S_IRUSR | S_IWUSR : 0666;
  fd_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd_ < 0) {
    aside_.clear();
    return false;
  }
  // Until it is locked another process may take it for one that was left. Where files cannot be locked, none does.
  const bool taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (!taken && is_aside_in_place()) return true;
  ::close(std::exchange(fd_, -1));
  aside_.clear();
  errno = EEXIST;
  return false;
}

Result<NewFile> NewFile::create(const Destination& destination) {
  remove_stale(destination.folder);
  NewFile file(destination);
  for (int attempt = 0; !file.open_aside(attempt); ++attempt) {
    if (errno != EEXIST || attempt == attempts) return file.failure("write", errno);
  }
  if (!destination.replaced) return file;
  const struct stat& old = *destination.replaced;
  struct stat status {};
  if (::fstat(file.fd_, &status) != 0) return file.failure("write", errno);
  if ((status.st_uid != old.st_uid || status.st_gid != old.st_gid) && ::fchown(file.fd_, old.st_uid, old.st_gid) != 0) {
    return fail(StatusCode::io_error,
                base::concat("cannot write ", base::in_quotes(destination.given), ": what is there belongs to user ",
                             old.st_uid, " and group ", old.st_gid, ", which cannot be kept: ", base::errno_text(errno),
                             "; remove it or name another file"));
  }
  return file;
}

NewFile::NewFile(NewFile&& other) noexcept
    : destination_(std::move(other.destination_)),
      aside_(std::exchange(other.aside_, {})),
      fd_(std::exchange(other.fd_, -1)) {}

NewFile::~NewFile() {
  if (!aside_.empty()) ::unlink(aside_.c_str());
  if (fd_ >= 0) ::close(fd_);
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

Result<void> NewFile::complete() {
  constexpr mode_t permissions = 07777;
  if (destination_.replaced && ::fchmod(fd_, destination_.replaced->st_mode & permissions) != 0) {
    return failure("write", errno);
  }
  if (::fsync(fd_) != 0) return failure("write", errno);
  if (!is_aside_in_place()) return failure("write", ENOENT);
  if (::faccessat(AT_FDCWD, destination_.folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) return failure("write", errno);
  // What came there meanwhile must be what may be replaced, too.
  struct stat status {};
  if (::lstat(destination_.path().c_str(), &status) == 0 && !S_ISREG(status.st_mode)) return failure("write", EEXIST);
  return {};
}

Result<void> NewFile::move() {
  if (::rename(aside_.c_str(), destination_.path().c_str()) != 0) return failure("write", errno);
  aside_.clear();
  return {};
}

}  // namespace isologit::detail::io
