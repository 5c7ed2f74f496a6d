// AVX-512: twenty-four accumulators of eight doubles (avx512) or sixteen floats (avx512_fast).
//
// Notes. Never timed. Predicted for an Ice Lake core by llvm-mca 14 from the code that GCC 12 makes: multiply_4 does
// its 24 multiply-adds in 12.1 cycles, two a cycle, which is the ceiling. Few rows of bf16: 24 cycles for 64 elements
// of the weight and two hidden rows, 35 for 32 elements and twelve rows (24 of them multiply-adds). 0.38 cycles an
// element are 16 GB/s a core at 3 GHz, about what a core reads.
#include "dot/avx512_vectors.hpp"
#include "dot/f32_tile.hpp"
#include "dot/f64_tile.hpp"

namespace isologit::dot {
namespace {

class Avx512 final : public F64Kernel<Panel<Doubles>> {
 public:
  using F64Kernel::F64Kernel;
  const fold::Lanes& lanes() const override { return fold::avx2_lanes(); }
};

class Avx512Fast final : public F32Kernel<Panel<Floats>> {
 public:
  using F32Kernel::F32Kernel;
  const fold::Lanes& lanes() const override { return fold::avx2_lanes(); }
};

}  // namespace

const Kernel& avx512_kernel(const Entry& entry) {
  static const Avx512 kernel(entry);
  return kernel;
}

const Kernel& avx512_fast_kernel(const Entry& entry) {
  static const Avx512Fast kernel(entry);
  return kernel;
}

}  // namespace isologit::dot
