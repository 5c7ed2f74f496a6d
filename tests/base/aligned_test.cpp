#include "base/aligned.hpp"

#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace isologit::detail::base {
namespace {

static_assert(!std::is_copy_constructible_v<AlignedBuffer> && !std::is_copy_assignable_v<AlignedBuffer>);
static_assert(std::is_nothrow_move_constructible_v<AlignedBuffer> && std::is_nothrow_move_assignable_v<AlignedBuffer>);

TEST(AlignedBuffer, BeginsAtACacheLineWhateverItsSize) {
  for (std::size_t bytes : {1U, 8U, 63U, 64U, 65U, 1000U, 4097U, 1U << 20}) {
    AlignedBuffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.as<char>()) % 64, 0U) << bytes;
    buffer.as<char>()[0] = 1;  // the address sanitizer checks both ends
    buffer.as<char>()[bytes - 1] = 2;
  }
}

TEST(AlignedBuffer, HoldsNothingWhenEmpty) {
  EXPECT_EQ(AlignedBuffer().size(), 0U);
  EXPECT_EQ(AlignedBuffer().as<float>(), nullptr);
  EXPECT_EQ(AlignedBuffer(0).as<float>(), nullptr);
}

TEST(AlignedBuffer, MovesItsMemory) {
  AlignedBuffer first(3 * sizeof(double));
  double* const memory = first.as<double>();
  memory[2] = 2.5;
  AlignedBuffer second(std::move(first));
  EXPECT_EQ(first.size(), 0U);  // NOLINT(bugprone-use-after-move): a moved-from buffer is an empty one
  EXPECT_EQ(first.as<double>(), nullptr);
  AlignedBuffer third(8);
  third = std::move(second);
  EXPECT_EQ(second.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(third.size(), 3 * sizeof(double));
  const AlignedBuffer& constant = third;
  EXPECT_EQ(constant.as<double>(), memory);
  EXPECT_EQ(constant.as<double>()[2], 2.5);
}

#if defined(__linux__)
// What the system tells of the memory at an address (smaps), its line of flags.
std::string flags_at(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t first = 0;
    std::uintptr_t last = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &first, &last) == 2) inside = first <= at && at < last;
    if (inside && line.starts_with("VmFlags:")) return line + " ";
  }
  return "";
}

TEST(AlignedBuffer, AsksForHugePagesWhereItIsLarge) {
  if (!std::string_view(SANITIZERS).empty()) GTEST_SKIP() << "sanitizers see the ends of buffers of small pages";
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) GTEST_SKIP() << "the system has no huge pages";
  constexpr std::size_t kHugePage = 2 << 20;
  for (const std::size_t bytes : {kHugePage / 2, kHugePage + 1, 5 * kHugePage}) {
    const AlignedBuffer large(bytes);
    const char* first = large.as<char>();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % kHugePage, 0U) << bytes;
    EXPECT_NE(flags_at(first).find(" hg "), std::string::npos) << bytes << ": " << flags_at(first);
    EXPECT_NE(flags_at(first + bytes - 1).find(" hg "), std::string::npos) << bytes;
  }
}
#endif

TEST(AlignedBuffer, ThrowsBadAllocWhenThereIsNoMemory) {
  if (!std::string_view(SANITIZERS).empty()) GTEST_SKIP() << "sanitizers end the process at an absurd size";
  for (const std::size_t size :
       {std::numeric_limits<std::size_t>::max() / 2, std::numeric_limits<std::size_t>::max()}) {
    volatile std::size_t too_many = size;
    EXPECT_THROW(AlignedBuffer{too_many}, std::bad_alloc) << size;
  }
}

}  // namespace
}  // namespace isologit::detail::base
