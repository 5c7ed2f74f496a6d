// AVX2 and FMA: twelve accumulators of four doubles (avx2) or eight floats (avx2_fast).
//
// Notes (Zen 3, 2 threads, V = 151936, H = 4096 bf16; docs/performance.md). Floor of one row: 52 ms. By conversions
// (load, shift, two conversions for 8 elements) 0.18 ns an element and thread with the weight in a cache, 81 ms in all;
// by shifts (11 operations for 16 elements, none of them a shuffle) 0.13 ns and 66 ms, no more bound by the core alone.
// The greatest magnitudes cost a sixth when they were read again from L2 row by row, and little chunk by chunk.
// Predicted for 64 rows: 8 multiply-adds a cycle, 800 ms; measured 1175, 85 % of it in the loop of multiply_4.
// Tried: a lambda in the loop of multiply_narrow, or its tail in the same function, put the accumulators into memory
// (GCC 12). Lowest set bits by scalar code took 15 % at 120 rows: some logits of nearly every weight row lie on a
// midpoint. Chunks of 128: no faster for many rows, 10 % for 16; panels of 4 weight rows: a tenth slower. Prefetching
// the next chunk by hand: a tenth slower.
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
