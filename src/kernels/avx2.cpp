// AVX2 and FMA: twelve accumulators of four doubles (avx2; its blocks of ten rows or more are multiplied as integers of
// 16 bits where they can be, kernels/word_sums.hpp) or eight floats (avx2_fast).
//
// Notes (Zen 3, 2 threads, V = 151936, H = 4096 bf16). Floor of one row: 52 ms. By conversions (load, shift, two
// conversions for 8 elements) 0.18 ns an element and thread with the weight in a cache, 81 ms in all; by shifts (11
// operations for 16 elements, none of them a shuffle) 0.13 ns and 66 ms, no more bound by the core alone. The greatest
// magnitudes cost a sixth when they were read again from L2 row by row, and little chunk by chunk. Lowest set bits by
// scalar code took 15 % at 120 rows: some logits of nearly every weight row lie on a midpoint. Chunks of 128: no faster
// for many rows, 10 % for 16; panels of 4 weight rows: a tenth slower.
//
// Where 4 and 16 rows lost their time (a thread of a busy Xeon, CPU time, ns for an element of the weight, H = 4096;
// reading alone 0.16, multiply-adds alone 0.14 and 0.56): from memory 0.34 and 1.15, from L2 0.24 and 0.67. So 16 rows
// waited for memory 0.48, which is all of reading and more: chunks of 512 bytes are too short for the processor's
// prefetcher, and 8 KB ahead is, of rows of 8 KB, the next row of the panel that is being read. Reading ahead of what
// is really next (the rows' next chunk, then the next rows) makes 16 rows 0.80 and one row 0.15 instead of 0.17. And of
// 3 to 12 rows GCC 12 kept half of the accumulators in memory, since it first loaded the hidden rows of all four
// registers that a group widens to: register by register (`part`) it does not; 4 rows are 0.26 with both. What is left
// of 16 rows, predicted from 32 cycles of multiply-adds, 7 of shifts and 2 of sums for 16 elements (0.71 ns), is that.
// Tried: passes of 3 and 2 rows in place of 3 and 1: no difference; two chunks ahead: a twentieth slower.
//
// Four rows, in turns in a later hour, are 0.298 from L3 and 0.31 from memory, so they are bound by the core: 32
// multiply-adds and 14 shifts for 32 elements are 23 cycles of the two ports that do these on a Xeon, 0.26 ns at 2.8
// GHz. Tried: elements raised by a load that doubles (VMOVSLDUP) or a shuffle, for which there are other ports, in
// place of 6 of the 14: 0.296; one and two rows 0.94 and 0.88 from L3, one the same from memory. Multiply-adds that GCC
// may not turn round, for the 21 moves of registers that it puts between them: 0.30, and of six rows, where the moves
// go, the same. By llvm-mca 14 a Zen 3 takes 32 cycles, all of them its two multipliers.
#define ISOLOGIT_LANES 4  // doubles in a register
#include "kernels/avx2_vectors.hpp"
#include "kernels/backward_loops_impl.hpp"
#include "kernels/f32_tile.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/forward_loops_impl.hpp"
#include "kernels/registry.hpp"
#include "kernels/word_sums.hpp"

namespace isologit::detail::kernels {

const Target& avx2_target(const Entry& entry) {
  return only<F64Target<WordSums>, k_avx2_shape>(entry,
                                                 {loops::kFoldLoops, &loops::kBackwardLoops, &loops::kForwardLoops});
}

const Target& avx2_fast_target(const Entry& entry) {
  return only<F32Target<Panel<Floats>>, k_avx2_fast_shape>(
      entry, {loops::kFoldLoops, &loops::kBackwardLoops, &loops::kForwardLoops});
}

}  // namespace isologit::detail::kernels
