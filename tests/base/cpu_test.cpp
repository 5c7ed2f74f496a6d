#include "base/cpu.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

namespace isologit::detail::base {
namespace {

#if defined(__linux__) && defined(__x86_64__)

// What the kernel says of the first processor: it leaves out what it does not support itself.
std::set<std::string> kernel_flags() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

TEST(Cpu, HasTheFeaturesTheKernelNames) {
  const std::set<std::string> flags = kernel_flags();
  ASSERT_TRUE(flags.contains("sse2")) << "cannot read /proc/cpuinfo";
  const auto has = [&flags](const char* name) { return flags.contains(name); };
  EXPECT_EQ(cpu().avx2_fma, has("avx2") && has("fma"));
  EXPECT_EQ(cpu().f16c, has("f16c"));
  const bool avx512 = has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl");
  EXPECT_EQ(cpu().avx512, avx512);
  EXPECT_EQ(cpu().avx512_vnni, avx512 && has("avx512_vnni"));
  EXPECT_EQ(cpu().amx_bf16, has("amx_tile") && has("amx_bf16"));
  EXPECT_EQ(cpu().amx_int8, has("amx_tile") && has("amx_int8"));
}

#endif

TEST(Cpu, IsNotGrantedTilesItDoesNotHave) {
  const bool granted = request_amx();
  if (!cpu().amx_bf16 && !cpu().amx_int8) {
    EXPECT_FALSE(granted);
  }
  EXPECT_EQ(request_amx(), granted);
}

#if defined(__linux__)

TEST(AvailableThreads, FollowTheAffinityMask) {
  cpu_set_t former;
  ASSERT_EQ(sched_getaffinity(0, sizeof former, &former), 0);
  const int all = available_threads();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, CPU_COUNT(&former));

  std::size_t first = 0;
  while (!CPU_ISSET(first, &former)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(available_threads(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof former, &former), 0);
  EXPECT_EQ(available_threads(), all);
}

#endif

}  // namespace
}  // namespace isologit::detail::base
