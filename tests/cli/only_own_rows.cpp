// Preloaded into the command, takes from each process of mpirun the pages of the weight file that hold none of its own
// bytes: whoever touches another's ends with SIGSEGV. The command reads files by nothing but mmap.
//
// ONLY_FILE is the file; ONLY_BYTES holds "HEADER BEGIN END BEGIN END ...": process r may read the first HEADER bytes
// and [BEGIN, END) of the r-th pair.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace {

struct Range {
  std::size_t begin, end;
};

bool is_the_file(int fd) {
  const char* name = std::getenv("ONLY_FILE");
  struct stat wanted {};
  struct stat found {};
  return name != nullptr && fd >= 0 && ::stat(name, &wanted) == 0 && ::fstat(fd, &found) == 0 &&
         wanted.st_dev == found.st_dev && wanted.st_ino == found.st_ino;
}

[[noreturn]] void give_up(const char* why) {
  std::fprintf(stderr, "only_own_rows: %s\n", why);
  std::_Exit(99);
}

Range own_range(std::size_t& header) {
  const char* bytes = std::getenv("ONLY_BYTES");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (bytes == nullptr || rank == nullptr) give_up("expected ONLY_BYTES, and mpirun");
  std::istringstream numbers(bytes);
  Range own{};
  numbers >> header;
  for (int i = std::atoi(rank); i >= 0; --i) numbers >> own.begin >> own.end;
  if (!numbers) give_up("ONLY_BYTES does not say which bytes this process may read");
  return own;
}

void protect(char* file, std::size_t size) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t header = 0;
  const Range own = own_range(header);
  for (std::size_t at = (header + page - 1) / page * page; at < size; at += page) {
    if (at < own.end && own.begin < at + page) continue;
    if (::mprotect(file + at, std::min(page, size - at), PROT_NONE) != 0) give_up("mprotect failed");
  }
}

}  // namespace

extern "C" void* mmap(void* address, std::size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  void* mapped = reinterpret_cast<void*>(::syscall(SYS_mmap, address, size, protection, flags, fd, offset));
  if (mapped != MAP_FAILED && is_the_file(fd)) protect(static_cast<char*>(mapped), size);
  return mapped;
}
