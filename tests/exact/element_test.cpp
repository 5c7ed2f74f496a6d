// Every bit pattern of bf16 and f16 is the number that it stands for.
#include "exact/element.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "oracle/cases.hpp"
#include "oracle/values.hpp"

namespace isologit::test {
namespace {

// The same number, the sign of zero included; or both NaN.
bool same(float found, double expected) {
  if (std::isnan(expected)) return std::isnan(found);
  return static_cast<double>(found) == expected && std::signbit(found) == std::signbit(expected);
}

TEST(Element, EveryBf16AndF16) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    ASSERT_TRUE(same(detail::exact::bf16_to_f32(bits), oracle::decode_bf16(bits))) << std::hex << i;
    ASSERT_TRUE(same(detail::exact::f16_to_f32(bits), oracle::decode_f16(bits))) << std::hex << i;
  }
}

// Elements of an array that is not aligned, its neighbours anything.
TEST(Element, OfArrays) {
  oracle::Random random(1);
  std::array<unsigned char, 4 * 50 + 1> bytes{};
  for (int round = 0; round < 1000; ++round) {
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random.next());
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      for (std::int64_t i = 0; i < 50; ++i) {
        const double expected = oracle::decode(dtype, bytes.data() + 1, static_cast<std::size_t>(i));
        ASSERT_TRUE(same(detail::exact::load_element(bytes.data() + 1, dtype, i), expected))
            << dtype_name(dtype) << ' ' << i;
      }
    }
  }
}

TEST(Element, RowsLieAStrideApartInEitherDirection) {
  std::array<std::uint16_t, 40> data{};
  for (const std::int64_t stride : {0, 3, -7}) {
    const MatrixView matrix{data.data() + 20, DType::f16, 3, 3, stride};
    EXPECT_EQ(detail::exact::row_data(matrix, 2), data.data() + 20 + 2 * stride);
  }
}

}  // namespace
}  // namespace isologit::test
