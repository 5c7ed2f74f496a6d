// Any bytes at all as a file of captured rows: either an error with a message, or rows and lists that are as long as
// they say.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/captured.hpp"

namespace {

using isologit::detail::io::Captured;

// One file without a name, always of one time: what is read is noted by these.
std::string as_file(const std::uint8_t* data, std::size_t size) {
  static const int fd = ::memfd_create("captured", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, 0) != 0) std::abort();
  if (::pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  const timespec times[2] = {};
  if (::futimens(fd, times) != 0) std::abort();
  return "/proc/self/fd/" + std::to_string(fd);
}

void check_lists(const Captured& captured, const char* name) {
  const auto lists = isologit::detail::io::read_lists(captured, name);
  if (!lists) {
    if (lists.error().message.empty()) std::abort();
  } else if (!lists->offsets.empty() && lists->offsets.size() != static_cast<std::size_t>(captured.hidden.rows) + 1) {
    std::abort();
  }
}

void check(const Captured& captured) {
  const auto rows = static_cast<std::size_t>(captured.hidden.rows);
  if (captured.token_ids.size() != rows) std::abort();
  if (!captured.temperatures.empty() && captured.temperatures.size() != rows) std::abort();
  const auto* bytes = static_cast<const unsigned char*>(captured.hidden.data);
  const std::size_t count =
      rows * static_cast<std::size_t>(captured.hidden.cols) * isologit::dtype_size(captured.hidden.dtype);
  volatile unsigned char seen = 0;
  for (std::size_t i = 0; i < count; ++i) seen = bytes[i];
  static_cast<void>(seen);
  const auto given = isologit::detail::io::read_given_ids(captured);
  if (!given && given.error().message.empty()) std::abort();
  if (given && given->ids.size() != rows * static_cast<std::size_t>(given->per_row)) std::abort();
  check_lists(captured, "kept");
  check_lists(captured, "banned");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto captured = isologit::detail::io::read_captured(as_file(data, size));
  if (captured) {
    check(*captured);
  } else if (captured.error().message.empty()) {
    std::abort();
  }
  return 0;
}
