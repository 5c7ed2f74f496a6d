// Elements of the weight as f64: every bf16 and f16 number, and f32 numbers of every exponent.
#include "cuda/element.cuh"

#include <gtest/gtest.h>

#include <cmath>

#include "oracle/values.hpp"

namespace isologit::detail::cuda {
namespace {

TEST(CudaElement, EveryFiniteBf16) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const double value = oracle::decode_bf16(static_cast<std::uint16_t>(bits));
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(Bf16::widen(bits), std::ldexp(value, -Bf16::kBias)) << bits;
    ASSERT_EQ(Bf16::value(bits), static_cast<float>(value)) << bits;
  }
}

TEST(CudaElement, EveryF16) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const double value = oracle::decode_f16(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(F16::value(bits)));
      continue;
    }
    ASSERT_EQ(F16::value(bits), static_cast<float>(value)) << bits;
    if (std::isfinite(value)) {
      ASSERT_EQ(F16::widen(bits), std::ldexp(value, -F16::kBias)) << bits;
    }
  }
}

TEST(CudaElement, F32OfEveryExponent) {
  for (std::uint32_t high = 0; high < 0x10000U; ++high) {
    for (const std::uint32_t low : {0U, 1U, 0x8001U, 0xFFFFU}) {
      const std::uint32_t bits = high << 16 | low;
      const double value = static_cast<double>(oracle::float_of(bits));
      if (std::isfinite(value)) {
        ASSERT_EQ(F32::widen(bits), std::ldexp(value, -F32::kBias)) << bits;
      }
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
