// The one list of targets, of each arithmetic the best first, the reference last. A line here enrols a target in
// dispatch, in the tests, in the bench and in `isologit kernels`: its name (NAME_target() is defined in NAME.cpp, or
// with the exact one's where `_fast` differs in the element alone), instruction set, arithmetic, tile shape (rows of a
// block, rows of a weight tile), the crossover (Entry::from_rows, measured by `isologit bench --crossovers`), and the
// function of registry.cpp that tells whether it runs here.
#pragma once

#include "kernels/target.hpp"

#if defined(__x86_64__)
#define ISOLOGIT_NATIVE_TARGETS(X)                                        \
  X(amx, "AMX-INT8", exact, 256, 64, 6, needs_amx_int8)                   \
  X(avx512_vnni, "AVX512-VNNI", exact, 256, 64, 10, needs_avx512_vnni)    \
  X(avx512, "AVX-512", exact, 120, 64, 1, needs_avx512)                   \
  X(avx2, "AVX2 FMA", exact, 120, 64, 1, needs_avx2)                      \
  X(amx_fast, "AMX-BF16", fast, 256, 64, 1, needs_amx_bf16)               \
  X(avx512_bf16_fast, "AVX512-BF16", fast, 256, 64, 1, needs_avx512_bf16) \
  X(avx512_fast, "AVX-512", fast, 240, 64, 1, needs_avx512)               \
  X(avx2_fast, "AVX2 FMA", fast, 240, 64, 1, needs_avx2)
#elif defined(__aarch64__)
#define ISOLOGIT_NATIVE_TARGETS(X)                  \
  X(neon, "NEON", exact, 120, 64, 1, needs_nothing) \
  X(neon_fast, "NEON", fast, 240, 64, 1, needs_nothing)
#else
#define ISOLOGIT_NATIVE_TARGETS(X)
#endif

#define ISOLOGIT_TARGETS(X)                                \
  ISOLOGIT_NATIVE_TARGETS(X)                               \
  X(portable, "any", exact, 120, 64, 1, needs_nothing)     \
  X(portable_fast, "any", fast, 240, 64, 1, needs_nothing) \
  X(reference, "any", exact, 64, 32, 1, needs_nothing)

namespace isologit::detail::kernels {

// The bits of fast arithmetic are the kernel's, which the number of rows may therefore not choose.
#define ISOLOGIT_TARGET_SHAPE(name, set, arithmetic, block_rows, tile_vocab, from_rows, needs) \
  constexpr TileShape k_##name##_shape{block_rows, tile_vocab};                                \
  static_assert(tile_vocab % kLaneGroup == 0 && tile_vocab <= kMostTile);                      \
  static_assert(from_rows == 1 || Arithmetic::arithmetic == Arithmetic::exact);
ISOLOGIT_TARGETS(ISOLOGIT_TARGET_SHAPE)
#undef ISOLOGIT_TARGET_SHAPE

// The loops of these targets, which others hold too. Those of avx512 only where the processor has it: plain, and with
// what products of bf16 there are; those of amx are avx512's with AMX's products.
Loops portable_loops();
Loops avx512_plain_loops();
Loops avx512_loops();
Loops amx_loops();

// What products of bf16 add: those of parts for backward, and the passes for bf16 results; where the processor has
// their instructions.
const PartLoops& amx_part_loops();
const Bf16Pass& avx512_bf16_pass();
const Bf16Pass& amx_bf16_pass();

namespace {

// The one target of its kind, whose shape is what its line says.
template <class Kind, TileShape kShape>
const Target& only(const Entry& entry, const Loops& loops) {
  static_assert(Kind::kShape == kShape);
  static const Kind target(entry, loops);
  return target;
}

}  // namespace

}  // namespace isologit::detail::kernels
