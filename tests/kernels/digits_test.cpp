// The digits of kernels/digits.hpp, in emulation: with what is listed beside them they are the row, whatever it holds.
#include "kernels/digits.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <vector>

namespace isologit::detail::kernels {
namespace {

// The integers that a row's digits stand for, in the row's order, and what is said beside them.
struct Packed {
  DigitRow row{};
  std::vector<std::int64_t> integers;
  std::map<std::int64_t, float> outside;
};

// Which element of a step stands at each place of its digits: of each 16 places 8 are of its first half.
std::int64_t element_at(std::int64_t place) { return place % 16 / 8 * 32 + place / 16 * 8 + place % 8; }

// As f32, or as bf16 which they are all numbers of. With `low` 1 a row is wanted of which one element in twelve has a
// lowest digit.
Packed pack(const std::vector<float>& elements, DType dtype, int low = 0) {
  const auto size = static_cast<std::int64_t>(elements.size());
  std::vector<std::uint16_t> halves;
  for (const float x : elements) halves.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16));
  const void* row = dtype == DType::f32 ? static_cast<const void*>(elements.data()) : halves.data();
  Packed packed;
  packed.integers.resize(static_cast<std::size_t>(steps_of(size) * kStep));
  const double greatest = greatest_of(row, dtype, size);
  std::int64_t lowest = 0;
  pack_row<Digits>(row, dtype, size, greatest, low, 0, packed.row, [&](std::int64_t step, const Digits& digits) {
    std::uint8_t bytes[kDigits][kStep];
    std::memcpy(bytes, digits.digit, sizeof bytes);
    if (step == 0) lowest = 0;
    lowest += kStep - std::count(bytes[0], bytes[0] + kStep, 0);
    for (std::int64_t place = 0; place < kStep; ++place) {
      packed.integers[static_cast<std::size_t>(step * kStep + element_at(place))] =
          static_cast<std::int8_t>(bytes[2][place]) * 65536 + bytes[1][place] * 256 + bytes[0][place];
    }
    return low == 0 || lowest <= size / 12;
  });
  for (std::int64_t i = 0; packed.row.fits && i < packed.row.outside; ++i) {
    packed.outside[packed.row.list[i].at] = packed.row.list[i].value;
  }
  return packed;
}

void expect_whole(const std::vector<float>& elements, std::size_t most_outside, DType dtype) {
  const Packed packed = pack(elements, dtype);
  ASSERT_TRUE(packed.row.fits);
  EXPECT_LE(packed.outside.size(), most_outside);
  for (std::size_t k = 0; k < packed.integers.size(); ++k) {
    const auto integer = static_cast<double>(packed.integers[k]);
    const auto listed = packed.outside.find(static_cast<std::int64_t>(k));
    if (listed != packed.outside.end()) {
      EXPECT_EQ(integer, 0);
      EXPECT_EQ(listed->second, elements[k]) << k;
    } else {
      const double element = k < elements.size() ? static_cast<double>(elements[k]) : 0;
      EXPECT_EQ(integer * packed.row.unit, element) << k;
    }
  }
}

void expect_whole(const std::vector<float>& elements, std::size_t most_outside) {
  expect_whole(elements, most_outside, DType::f32);
  const bool is_short = std::all_of(elements.begin(), elements.end(),
                                    [](float x) { return (std::bit_cast<std::uint32_t>(x) & 0xFFFF) == 0; });
  if (is_short) expect_whole(elements, most_outside, DType::bf16);
}

// Numbers of 8 bits, from +-128 to +-255, times 2^exponent.
float short_number(int i, int exponent) {
  return std::ldexp(static_cast<float>((i % 2 == 0 ? 1 : -1) * (128 + i * 37 % 128)), exponent);
}

TEST(Digits, HoldTheWindowToItsEnds) {
  std::vector<float> elements;
  for (int i = 0; i < 1000; ++i) elements.push_back(short_number(i, i % 16));  // 8 + 15 bits
  expect_whole(elements, 0);
  elements[500] = -0x1p23F;  // fits if the unit is 1, which the other elements ask for
  expect_whole(elements, 1);
  elements[700] = std::ldexp(129.0F, -1);
  expect_whole(elements, 1);
}

TEST(Digits, OfSmallAndGreatRows) {
  for (const int exponent : {-149, -140, 0, 100, 120}) {
    std::vector<float> elements;
    for (int i = 0; i < 77; ++i) elements.push_back(std::ldexp(static_cast<float>(i % 8 - 4), exponent));
    expect_whole(elements, 0);
  }
  expect_whole(std::vector<float>(65, 0.0F), 0);
  expect_whole(std::vector<float>(65, -0.0F), 0);
  expect_whole({std::numeric_limits<float>::max()}, 1);  // 24 bits, the sign apart
  expect_whole({-std::numeric_limits<float>::denorm_min()}, 0);
}

TEST(Digits, TheFewGreatElementsAreLeftOut) {
  std::vector<float> elements;
  for (int i = 0; i < 4096; ++i) elements.push_back(short_number(i, i % 512 == 77 ? 40 : i % 16));
  expect_whole(elements, 8);
  elements[77] = std::numeric_limits<float>::infinity();
  elements[100] = 0x1p-149F;
  expect_whole(elements, 9);
}

TEST(Digits, TheLowestAreFewWhereThatIsWanted) {
  std::vector<float> elements;
  for (int i = 0; i < 4096; ++i) elements.push_back(short_number(i, i % 512 == 80 ? 20 : 8 + i / 8 % 8));
  expect_whole(elements, 0);
  const Packed packed = pack(elements, DType::bf16, 1);
  ASSERT_TRUE(packed.row.fits);
  EXPECT_EQ(packed.outside.size(), 8U);
  for (std::size_t k = 0; k < elements.size(); ++k) {
    EXPECT_EQ(packed.integers[k] % 256, 0) << k;
    const bool listed = packed.outside.contains(static_cast<std::int64_t>(k));
    EXPECT_EQ(listed ? packed.outside.at(static_cast<std::int64_t>(k))
                     : static_cast<float>(static_cast<double>(packed.integers[k]) * packed.row.unit),
              elements[k])
        << k;
  }
  for (int i = 0; i < 4096; ++i)
    elements[static_cast<std::size_t>(i)] = short_number(i, i / 8 % 16);  // all binades alike
  EXPECT_FALSE(pack(elements, DType::bf16, 1).row.fits);
  EXPECT_TRUE(pack(elements, DType::bf16).row.fits);
}

TEST(Digits, TooManyOutsideDoNotFit) {
  std::vector<float> elements;
  for (int i = 0; i < 130; ++i) elements.push_back(short_number(i, i < 65 ? 0 : 60));
  EXPECT_FALSE(pack(elements, DType::f32).row.fits);
  elements.pop_back();
  expect_whole(elements, 64);
}

TEST(Digits, OneNaNStandsForTheRow) {
  std::vector<float> elements(200, 1.0F);
  elements[150] = elements[170] = std::numeric_limits<float>::quiet_NaN();
  const Packed packed = pack(elements, DType::f32);
  EXPECT_TRUE(packed.row.fits);
  ASSERT_EQ(packed.outside.size(), 1U);
  EXPECT_EQ(packed.outside.begin()->first, 150);
}

}  // namespace
}  // namespace isologit::detail::kernels
