// The AVX-512 kernels in emulation, as kernels that run here: compiled without the instruction set, against
// emulated/immintrin.h, on a processor that claims to have it. Stands in for the library's own object files.
#include <immintrin.h>

#include "base/cpu.hpp"

namespace isologit::base {

static const CpuFeatures& emulated_cpu() {
  static const CpuFeatures features = [] {
    CpuFeatures all = cpu();
    all.avx512 = true;
    return all;
  }();
  return features;
}

}  // namespace isologit::base

#include "dot/avx512.cpp"
#define cpu emulated_cpu
#include "dot/dot.cpp"
