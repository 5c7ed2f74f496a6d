#include "io/destination.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <utility>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

constexpr int max_links = 40;  // as many as the kernel follows

template <class... Parts>
tl::unexpected<Error> refuse(const std::string& path, const Parts&... why) {
  return fail(StatusCode::invalid_argument, base::concat("cannot write ", base::in_quotes(path), ": ", why...));
}

tl::unexpected<Error> failure(const std::string& path, int error) {
  return fail(StatusCode::io_error,
              base::concat("cannot write ", base::in_quotes(path), ": ", base::errno_text(error)));
}

// The folder of a path, and the name in it.
std::pair<std::string, std::string> split(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

bool names_a_file(const std::string& name) { return !name.empty() && name != "." && name != ".."; }

bool is_standard_stream(const struct stat& status) {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    struct stat other {};
    if (::fstat(stream, &other) == 0 && other.st_dev == status.st_dev && other.st_ino == status.st_ino) return true;
  }
  return false;
}

// What is at the end of all links, judged. `found` is the destination without them.
Result<Destination> judge(Destination found, const struct stat& status) {
  if (S_ISDIR(status.st_mode)) return refuse(found.given, "it is a directory; name a file");
  if (!S_ISREG(status.st_mode)) return refuse(found.given, "it exists and is not a regular file; name a file");
  if (is_standard_stream(status)) return refuse(found.given, "it is a standard stream of this process; name a file");
  // The superuser may write to any file; one that nobody may write to was meant to stay.
  if ((status.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH)) == 0) {
    return refuse(found.given, "it is read-only; remove it or name another file");
  }
  if (::faccessat(AT_FDCWD, found.path().c_str(), W_OK, AT_EACCESS) != 0) return failure(found.given, errno);
  found.replaced = status;
  return found;
}

}  // namespace

Result<Destination> find_destination(const std::string& path) {
  std::string next = path;
  for (int links = 0; links <= max_links; ++links) {
    auto [folder, name] = split(next);
    if (!names_a_file(name)) return refuse(path, "it names no file");
    Destination found{path, std::move(folder), std::move(name), {}};
    struct stat status {};
    if (::lstat(found.path().c_str(), &status) != 0) {
      if (errno != ENOENT) return failure(path, errno);
      if (::faccessat(AT_FDCWD, found.folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
        return fail(StatusCode::io_error, base::concat("cannot write to folder ", base::in_quotes(found.folder), ": ",
                                                       base::errno_text(errno)));
      }
      // A link of /proc leads to what may have no name: a pipe, or a file that was removed.
      if (links == 0 || ::stat(path.c_str(), &status) != 0) return found;
      return S_ISREG(status.st_mode) ? refuse(path, "it leads to a file without a name; name a file")
                                     : judge(std::move(found), status);
    }
    if (!S_ISLNK(status.st_mode)) return judge(std::move(found), status);
    std::string target(PATH_MAX, '\0');
    const ssize_t length = ::readlink(found.path().c_str(), target.data(), target.size());
    if (length < 0) return failure(path, errno);
    target.resize(static_cast<std::size_t>(length));
    if (!target.empty() && target.front() == '/') {
      next = target;
    } else {
      next = found.folder + "/" + target;
    }
  }
  return failure(path, ELOOP);
}

}  // namespace isologit::detail::io
