#include "io/read_files.hpp"

#include <algorithm>
#include <cerrno>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// How `now` differs from `before`; empty if it does not.
std::string difference(const struct stat& before, const struct stat& now) {
  if (!same_file(before, now)) return "another file has taken its place";
  if (before.st_size != now.st_size) {
    return base::concat("it had ", before.st_size, " bytes and has ", now.st_size);
  }
  const bool same_time = before.st_mtim.tv_sec == now.st_mtim.tv_sec && before.st_mtim.tv_nsec == now.st_mtim.tv_nsec;
  return same_time ? "" : "it was written to";
}

}  // namespace

ReadFiles& ReadFiles::of_process() {
  static ReadFiles files;
  return files;
}

void ReadFiles::note(const std::string& path, const struct stat& status) {
  const std::lock_guard lock(mutex_);
  const auto known = [&](const File& file) { return file.path == path && difference(file.status, status).empty(); };
  if (std::none_of(files_.begin(), files_.end(), known)) files_.push_back({path, status});
}

bool ReadFiles::contain(const struct stat& status) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(files_.begin(), files_.end(), [&](const File& file) { return same_file(file.status, status); });
}

Result<void> ReadFiles::check() const {
  const std::lock_guard lock(mutex_);
  for (const File& file : files_) {
    struct stat now {};
    const std::string why =
        ::stat(file.path.c_str(), &now) != 0 ? base::errno_text(errno) : difference(file.status, now);
    if (why.empty()) continue;
    return fail(StatusCode::io_error, base::concat(base::in_quotes(file.path), " changed while it was read: ", why,
                                                   "; run again when nothing writes to it"));
  }
  return {};
}

}  // namespace isologit::detail::io
