#include "base/cpu.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

#include "base/cgroup.hpp"
#include "base/processors.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace isologit::detail::base {
namespace {

#if defined(__x86_64__) || defined(__i386__)

constexpr bool has_bits(std::uint64_t word, std::uint64_t bits) { return (word & bits) == bits; }

constexpr std::uint64_t bit(int position) { return std::uint64_t{1} << position; }

struct CpuidLeaf {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the processor has no such leaf.
CpuidLeaf cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidLeaf result;
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx);
  return result;
}

// The register state that the operating system saves across context switches.
std::uint64_t xcr0() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

CpuFeatures detect() {
  CpuFeatures features;
  const CpuidLeaf basic = cpuid(1, 0);
  const bool has_xgetbv = has_bits(basic.ecx, bit(27));
  if (!has_xgetbv) return features;

  const std::uint64_t state = xcr0();
  const bool os_avx = has_bits(state, bit(1) | bit(2));                        // xmm, ymm
  const bool os_avx512 = os_avx && has_bits(state, bit(5) | bit(6) | bit(7));  // masks, upper halves, zmm16 to 31
  const bool os_amx = has_bits(state, bit(17) | bit(18));                      // tile configuration and data

  const CpuidLeaf extended = cpuid(7, 0);
  const bool avx = os_avx && has_bits(basic.ecx, bit(28));
  features.avx2_fma = avx && has_bits(basic.ecx, bit(12)) && has_bits(extended.ebx, bit(5));
  features.f16c = avx && has_bits(basic.ecx, bit(29));
  const std::uint64_t f_dq_bw_vl = bit(16) | bit(17) | bit(30) | bit(31);
  features.avx512 = os_avx512 && features.avx2_fma && has_bits(extended.ebx, f_dq_bw_vl);
  features.avx512_vnni = features.avx512 && has_bits(extended.ecx, bit(11));
  features.avx512_bf16 = features.avx512 && has_bits(cpuid(7, 1).eax, bit(5));
  const bool amx_tile = os_amx && has_bits(extended.edx, bit(24));
  features.amx_bf16 = amx_tile && has_bits(extended.edx, bit(22));
  features.amx_int8 = amx_tile && has_bits(extended.edx, bit(25));
  return features;
}

#else

CpuFeatures detect() { return {}; }

#endif

bool ask_for_amx() {
#if defined(__linux__) && defined(__x86_64__)
  if (!cpu().amx_bf16 && !cpu().amx_int8) return false;
  constexpr int arch_req_xcomp_perm = 0x1023;  // Linux 5.16 and later; not in every libc's headers
  constexpr int xfeature_xtiledata = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_xtiledata) == 0;
#else
  return false;
#endif
}

}  // namespace

const CpuFeatures& cpu() {
  static const CpuFeatures features = detect();
  return features;
}

bool request_amx() {
  static const bool granted = ask_for_amx();
  return granted;
}

int available_processors() {
  const auto processors = ProcessorSet::of_thread();
  return processors != nullptr ? processors->count() : static_cast<int>(std::thread::hardware_concurrency());
}

int available_threads() {
  int threads = available_processors();
  static CgroupCpuQuota quota_of_process;
  if (const auto quota = quota_of_process.at(std::chrono::steady_clock::now())) threads = std::min(threads, *quota);
  return std::max(threads, 1);
}

}  // namespace isologit::detail::base
