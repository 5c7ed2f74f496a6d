// The AVX-512 and AMX kernels in emulation, as kernels that run here: compiled without the instruction sets, against
// emulated/immintrin.h, on a processor that claims to have them. Stands in for the library's own object files.
#include <immintrin.h>

#include "base/cpu.hpp"

namespace isologit::detail::base {

static const CpuFeatures& emulated_cpu() {
  static const CpuFeatures features = [] {
    CpuFeatures all = cpu();
    all.avx512 = true;
    all.avx512_vnni = true;
    all.amx_int8 = true;
    all.amx_bf16 = true;
    all.avx512_bf16 = true;
    return all;
  }();
  return features;
}

static bool emulated_request_amx() { return true; }

}  // namespace isologit::detail::base

#include "kernels/amx.cpp"
#include "kernels/amx_fast.cpp"
#include "kernels/amx_parts.cpp"
#include "kernels/avx512.cpp"
#include "kernels/avx512_bf16_fast.cpp"
#include "kernels/avx512_vnni.cpp"

namespace isologit::detail::kernels {

// kernels/amx_bf16.cpp and avx512_bf16.cpp are not emulated: results in bf16 are made of f32 ones here.
static const Bf16Pass& emulated_bf16_pass() {
  static constexpr Bf16Pass none{std::numeric_limits<std::int64_t>::max(), 0, nullptr, nullptr, nullptr, nullptr};
  return none;
}

}  // namespace isologit::detail::kernels

#define amx_bf16_pass emulated_bf16_pass
#define avx512_bf16_pass emulated_bf16_pass
#define cpu emulated_cpu
#define request_amx emulated_request_amx
#include "kernels/registry.cpp"
