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
    all.avx512_bf16 = false;  // kernels/amx_bf16.cpp is not emulated: results in bf16 are made of f32 ones here
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
#include "kernels/avx512_vnni.cpp"
#define cpu emulated_cpu
#define request_amx emulated_request_amx
#include "kernels/registry.cpp"
