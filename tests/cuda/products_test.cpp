// What the certificate is for: products that are worse than fused multiply-adds keep the bits as long as their error
// stays inside the bound, and past it the self-test refuses them.
#include <gtest/gtest.h>

#include "cuda/quotient_self_test.cuh"
#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

// Sums that are no f64 number go to the neighbour that is further off: each errs by up to twice what one addition may,
// and all together stay far inside the bound, since what is summed up is smaller than its terms.
constexpr Products kWrongNeighbours = {.fma = [](double a, double b, double c) {
  const double sum = std::fma(a, b, c);
  const double rest = std::fma(a, b, c - sum);  // its sign is right
  return rest == 0 ? sum : std::nextafter(sum, rest > 0 ? HUGE_VAL : -HUGE_VAL);
}};

constexpr Products kSinglePrecision = {.fma = [](double a, double b, double c) {
  const double sum = std::fma(a, b, c);
  return sum + sum * 0x1p-25;
}};

// Subnormal operands taken for zero.
constexpr Products kFlushingOperands = {.fma = [](double a, double b, double c) {
  return std::fabs(a) < 0x1p-1022 || std::fabs(b) < 0x1p-1022 ? c : std::fma(a, b, c);
}};

// Subnormal sums taken for zero.
constexpr Products kFlushingSums = {.fma = [](double a, double b, double c) {
  const double sum = std::fma(a, b, c);
  return std::fabs(sum) < 0x1p-1022 ? 0.0 : sum;
}};

std::uint32_t broken_sums(const Products& products) {
  using Kernel = SelfTest<HostLauncher::Block<4>>;
  HostLauncher launcher(products);
  std::uint32_t broken = 0;
  launcher.launch<Kernel>(Kernel::kKinds, 1, SelfTesting{&broken});
  return broken;
}

TEST(CudaProducts, RightOnesPassTheSelfTest) { EXPECT_EQ(broken_sums({}), 0U); }

TEST(CudaProducts, WrongOnesAreRefused) {
  EXPECT_GT(broken_sums(kWrongNeighbours), 0U);  // what is only not to nearest is refused too
  EXPECT_GT(broken_sums(kSinglePrecision), 0U);
  EXPECT_GT(broken_sums(kFlushingOperands), 0U);
  EXPECT_GT(broken_sums(kFlushingSums), 0U);
}

TEST(CudaQuotients, RightOnesPassTheSelfTest) {
  using Kernel = QuotientSelfTest<HostLauncher::Block<4>>;
  HostLauncher launcher;
  std::uint32_t broken = 0;
  launcher.launch<Kernel>(1, 1, SelfTesting{&broken});
  EXPECT_EQ(broken, 0U);
}

TEST(CudaQuotients, NeighboursAreRefused) {
  for (int i = 1; i < 20000; ++i) {
    const double a = std::ldexp(1.0 + i * 0x1p-17, i % 31);
    const double b = std::ldexp(3.0 - i * 0x1p-20 - (i % 7) * 0x1p-50, i % 17);
    ASSERT_TRUE(is_quotient(a / b, a, b)) << i;
    ASSERT_TRUE(is_root(std::sqrt(a), a)) << i;
    for (const double towards : {0.0, HUGE_VAL}) {
      ASSERT_FALSE(is_quotient(std::nextafter(a / b, towards), a, b)) << i;
      ASSERT_FALSE(is_root(std::nextafter(std::sqrt(a), towards), a)) << i;
    }
  }
}

TEST(CudaProducts, BadOnesInsideTheBoundKeepTheBits) {
  for (const auto family : oracle::dot_families) {
    for (const std::int64_t rows : {3, 12, 34}) {
      const auto data = oracle::make_dot({rows, 40, 1024}, family, 11);
      HostLauncher launcher(kWrongNeighbours);
      EXPECT_EQ(count_different(logits_by(launcher, data), logits_of_oracle(data)), 0) << oracle::name_of(family);
    }
  }
}

// The test above could not fail if nothing depended on the products.
TEST(CudaProducts, BadOnesPastTheBoundAreSeenInTheBits) {
  const auto data = oracle::make_dot({3, 400, 256}, oracle::DotFamily::normal, 12);
  HostLauncher launcher(kSinglePrecision);
  EXPECT_GT(count_different(logits_by(launcher, data), logits_of_oracle(data)), 0);
}

}  // namespace
}  // namespace isologit::detail::cuda
