#include "base/aligned.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
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

TEST(AlignedBuffer, ThrowsBadAllocWhenThereIsNoMemory) {
  if (!std::string_view(SANITIZERS).empty()) GTEST_SKIP() << "sanitizers end the process at an absurd size";
  volatile std::size_t too_many = std::numeric_limits<std::size_t>::max() / 2;
  EXPECT_THROW(AlignedBuffer{too_many}, std::bad_alloc);
}

}  // namespace
}  // namespace isologit::detail::base
