#include "base/fp_env.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cfenv>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

namespace isologit::detail::base {
namespace {

// Operands and results go through volatile: the arithmetic is done at run time and where it is written.
float add(float a, float b) {
  volatile float x = a;
  volatile float y = b;
  volatile float sum = x + y;
  return sum;
}

float multiply(float a, float b) {
  volatile float x = a;
  volatile float y = b;
  volatile float product = x * y;
  return product;
}

// What the environment does to five sums and products, as bits: a comparison of floats would obey it as well.
using Observed = std::array<std::uint32_t, 5>;

constexpr float quarter_ulp = 0x1p-25F;

Observed observe() {
  return {
      std::bit_cast<std::uint32_t>(add(1.0F, quarter_ulp)), std::bit_cast<std::uint32_t>(add(1.0F, 3 * quarter_ulp)),
      std::bit_cast<std::uint32_t>(add(-1.0F, -quarter_ulp)), std::bit_cast<std::uint32_t>(multiply(0x1p-126F, 0.5F)),
      std::bit_cast<std::uint32_t>(multiply(0x1p-149F, 0x1p30F))};
}

// 1, 1 + 2^-23, -1, 2^-127 (a subnormal result), 2^-119 (of a subnormal operand).
constexpr Observed to_nearest = {0x3F800000, 0x3F800001, 0xBF800000, 0x00400000, 0x04000000};

// Every part of the environment the caller may have changed, bit for bit.
std::vector<std::uint64_t> registers() {
#if defined(__SSE2__)
  std::uint16_t x87_control = 0;
  asm volatile("fnstcw %0" : "=m"(x87_control));
  return {__builtin_ia32_stmxcsr(), x87_control};
#elif defined(__aarch64__)
  return {__builtin_aarch64_get_fpcr64(), __builtin_aarch64_get_fpsr64()};
#else
  return {static_cast<std::uint64_t>(std::fegetround()), static_cast<std::uint64_t>(std::fetestexcept(FE_ALL_EXCEPT))};
#endif
}

// Puts the thread's own environment back, so that one test does not change the next.
class FpEnvironmentTest : public testing::Test {
 protected:
  FpEnvironmentTest() { std::fegetenv(&former_); }
  ~FpEnvironmentTest() override { std::fesetenv(&former_); }

 private:
  std::fenv_t former_;
};

// Under the environment the caller has just set: sees to_nearest inside, and the caller's own again outside.
void expect_shielded(const std::string& caller) {
  const Observed observed_before = observe();
  const auto before = registers();
  Observed inside = {};
  {
    const FpEnvironment environment;
    inside = observe();  // raises inexact and underflow, which must not reach the caller either
  }
  const auto after = registers();
  const Observed observed_after = observe();
  EXPECT_EQ(inside, to_nearest) << caller;
  EXPECT_EQ(after, before) << caller;
  EXPECT_EQ(observed_after, observed_before) << caller;
}

TEST_F(FpEnvironmentTest, RoundsToNearestUnderEveryRoundingMode) {
  for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    ASSERT_EQ(observe() == to_nearest, mode == FE_TONEAREST) << "the mode has no effect here: " << mode;
    expect_shielded("rounding mode " + std::to_string(mode));
    EXPECT_EQ(std::fegetround(), mode);
  }
}

// strtod does its own rounding, in the mode it finds: on x86 that of the x87.
TEST_F(FpEnvironmentTest, HoldsForTheCLibraryToo) {
  constexpr double nearest = 0x1.6a161e4f765fep-6;
  for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    const double outside = std::strtod("0.0221", nullptr);
    double inside = 0;
    {
      const FpEnvironment environment;
      inside = std::strtod("0.0221", nullptr);
    }
    ASSERT_EQ(outside < nearest, mode == FE_DOWNWARD || mode == FE_TOWARDZERO);
    EXPECT_EQ(inside, nearest) << mode;
  }
}

TEST_F(FpEnvironmentTest, RestoresEveryCombinationOfFlags) {
  for (int flags = 0; flags <= FE_ALL_EXCEPT; ++flags) {
    if ((flags & FE_ALL_EXCEPT) != flags) continue;
    std::feclearexcept(FE_ALL_EXCEPT);
    ASSERT_EQ(std::feraiseexcept(flags), 0);
    const int raised = std::fetestexcept(FE_ALL_EXCEPT);  // overflow may bring inexact with it
    {
      const FpEnvironment environment;
      EXPECT_EQ(multiply(std::numeric_limits<float>::max(), 2.0F), std::numeric_limits<float>::infinity());
    }
    EXPECT_EQ(std::fetestexcept(FE_ALL_EXCEPT), raised);
  }
}

#if defined(__SSE2__)

constexpr unsigned daz = 0x0040;
constexpr unsigned ftz = 0x8000;

TEST_F(FpEnvironmentTest, KeepsSubnormalsUnderEveryFlushAndRoundingMode) {
  const unsigned plain = __builtin_ia32_stmxcsr();
  for (const unsigned flush : {daz, ftz, daz | ftz}) {
    for (const unsigned rounding : {0U, 1U, 2U, 3U}) {
      __builtin_ia32_ldmxcsr((plain & ~0x6000U) | flush | (rounding << 13));
      const Observed observed = observe();
      ASSERT_EQ(observed[3] == 0, (flush & ftz) != 0);
      ASSERT_EQ(observed[4] == 0, (flush & daz) != 0);
      expect_shielded("flush " + std::to_string(flush) + ", rounding " + std::to_string(rounding));
    }
  }
}

TEST_F(FpEnvironmentTest, DoesNotTrapWhereTheCallerHasUnmaskedExceptions) {
  __builtin_ia32_ldmxcsr(0);  // every exception unmasked, no flag set
  float inside = 0;
  {
    const FpEnvironment environment;
    inside = add(1.0F, quarter_ulp);  // inexact: SIGFPE if it were not masked
  }
  const unsigned after = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(0x1F80);
  EXPECT_EQ(inside, 1.0F);
  EXPECT_EQ(after, 0U);
}

#endif

}  // namespace
}  // namespace isologit::detail::base
