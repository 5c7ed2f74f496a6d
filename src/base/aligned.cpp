#include "base/aligned.hpp"

#include <limits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace isologit::detail::base {
namespace {

constexpr std::size_t kHugePage = 2 << 20;

// Whether so many bytes are worth huge pages: kernels that pass over megabytes again and again wait for the translation
// of addresses, and pages of 4 KB end what the processor reads ahead. CPU time in turns on a busy Xeon with AMX, tiles
// of H=4096: amx 256 rows 32.0 and 30.4 ns a logit, 64 rows 36.1 and 35.0, amx_fast 240 rows 11.9 and 11.0. Under the
// address sanitizer none, so that it sees where they end.
bool is_large([[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  return false;
#else
  return bytes >= kHugePage / 2;
#endif
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const bool large = is_large(bytes);
  if (large && bytes > std::numeric_limits<std::size_t>::max() - kHugePage) throw std::bad_alloc();
  const std::align_val_t boundary{large ? kHugePage : alignment};
  const std::size_t whole = large ? (bytes + kHugePage - 1) / kHugePage * kHugePage : bytes;
  bytes_ = {::operator new(whole, boundary), Free{boundary}};
#if defined(__linux__)
  if (large) madvise(bytes_.get(), whole, MADV_HUGEPAGE);  // a wish, which a system may refuse
#endif
}

}  // namespace isologit::detail::base
