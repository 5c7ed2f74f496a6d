// The integer that ends every doubt, against the oracle.
#include "cuda/accumulator.cuh"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;

float sum_of(const double* h, const double* w, std::size_t count) {
  Accumulator sum = {};
  for (std::size_t k = 0; k < count; ++k) {
    accumulate(h[k] * w[k], [&](int digit, std::uint64_t x) { sum.digit[digit] += x; });
  }
  return round_once(sum);
}

TEST(CudaAccumulator, EqualsTheOracle) {
  for (const auto type : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto family : oracle::dot_families) {
      if (family == DotFamily::specials) continue;  // settled before
      const auto data = oracle::make_dot({6, 50, 70, type, type}, family, 21);
      for (std::int64_t n = 0; n < 6; ++n) {
        for (std::int64_t v = 0; v < 50; ++v) {
          const float want = oracle::logit(data.hidden_row(n), data.weight_row(v), 70);
          ASSERT_EQ(oracle::bits_of(sum_of(data.hidden_row(n), data.weight_row(v), 70)), oracle::bits_of(want))
              << oracle::name_of(family) << ' ' << n << ' ' << v;
        }
      }
    }
  }
}

// One term at every place there is, alone, with the least term against it, and beside a midpoint.
TEST(CudaAccumulator, EveryPlace) {
  for (int high = -149; high <= 127; ++high) {
    for (const double small : {0.0, 0x1p-298, -0x1p-298}) {
      for (const double odd : {1.0, 1.0 + 0x1p-24, 1.0 + 0x3p-24, -1.0 - 0x1p-24}) {
        const std::vector<double> h = {std::ldexp(odd, high), small};
        const std::vector<double> w = {1.0, 1.0};
        ASSERT_EQ(oracle::bits_of(sum_of(h.data(), w.data(), 2)), oracle::bits_of(oracle::logit(h.data(), w.data(), 2)))
            << high << ' ' << small << ' ' << odd;
      }
    }
  }
}

TEST(CudaAccumulator, ManyOfTheLargest) {
  const double largest = static_cast<double>(oracle::float_of(0x7F7FFFFFU));
  std::vector<double> h(1001, largest), w(1001, largest);
  EXPECT_EQ(sum_of(h.data(), w.data(), 1001), HUGE_VALF);
  for (std::size_t i = 0; i < 500; ++i) w[i] = -largest;
  w[1000] = 0x1p-149;  // 500 cancel 500
  EXPECT_EQ(sum_of(h.data(), w.data(), 1001), oracle::logit(h.data(), w.data(), 1001));
}

}  // namespace
}  // namespace isologit::detail::cuda
