// AVX-512: twenty-four accumulators of eight doubles (avx512) or sixteen floats (avx512_fast).
//
// Notes. Measured on 16 processors of a Xeon (docs/performance.md): 256 rows at 45 GFLOP/s a core in f64, 91 in f32,
// one row at the rate of memory. Predicted for an Ice Lake core by llvm-mca 14 from the code that GCC 12 makes:
// multiply_4 does its 24 multiply-adds in 12.1 cycles, two a cycle, which is the ceiling. Few rows of bf16: 24 cycles
// for 64 elements of the weight and two hidden rows, 35 for 32 elements and twelve rows (24 of them multiply-adds).
// 0.38 cycles an element are 16 GB/s a core at 3 GHz, about what a core reads.
//
// From ten rows on of f64 sums panels in memory are the faster way: 9 to 12 rows widened in registers 0.43, 0.48, 0.54
// and 0.61 ns for an element of the weight, by panels 0.43, 0.43, 0.46 and 0.48 (H=4096; CPU time in turns on a busy
// Xeon with AMX; H=1024 the same). In f32, which widens more cheaply, registers are faster up to 12.
#define ISOLOGIT_LANES 8  // doubles in a register
#include "kernels/avx512_vectors.hpp"
#include "kernels/backward_loops_impl.hpp"
#include "kernels/f32_tile.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/forward_loops_impl.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {

static_assert(loops::kColumns == kPartColumns);  // AMX's parts are made into the same panels

Loops avx512_plain_loops() { return {loops::kFoldLoops, &loops::kBackwardLoops, &loops::kForwardLoops}; }

const Target& avx512_target(const Entry& entry) {
  return only<F64Target<Panel<Doubles>>, k_avx512_shape>(entry, avx512_loops());
}

const Target& avx512_fast_target(const Entry& entry) {
  return only<F32Target<Panel<Floats>>, k_avx512_fast_shape>(entry, avx512_loops());
}

}  // namespace isologit::detail::kernels
