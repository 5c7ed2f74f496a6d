// The tensor cores' products of a warpgroup, four warps, by wgmma (sm_90a): 64 weight rows by 64 hidden rows or more,
// which run while the threads go on. Hidden rows, and weight rows that are not in registers, are read from shared
// memory where a descriptor says they lie. block.cuh gives these as words of a block, tests/cuda/host_block.hpp reads
// the same descriptors.
#pragma once

#include "cuda/bits.cuh"

namespace isologit::detail::cuda {

// How rows lie in shared memory, 32 bytes of each a multiplication: in core matrices of 8 rows by 16 bytes.
enum class Swizzle : int {
  kNone = 0,  // a core matrix is 128 bytes that lie together
  k128 = 1    // rows of 128 bytes, whose piece i of 16 lies at i ^ (row % 8); groups of 8 begin at multiples of 1024
};

// The bits of a descriptor, in units of 16 bytes: 0 to 13 where the rows begin, 16 to 29 how far the second 16 bytes of
// a row lie from the first (of kNone alone), 32 to 45 how far 8 rows from the 8 before them, 62 and 63 the swizzle.
ISOLOGIT_DEVICE std::uint64_t descriptor(std::uint32_t address, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  return std::uint64_t{(address & 0x3FFFFU) >> 4} | static_cast<std::uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(stride_bytes >> 4) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
}

#ifdef __CUDACC__

// The registers of a multiplication's sums, eight hidden rows each.
#define ISOLOGIT_FOUR(constraint, c, n) \
  constraint((c)[4 * (n)]), constraint((c)[4 * (n) + 1]), constraint((c)[4 * (n) + 2]), constraint((c)[4 * (n) + 3])
#define ISOLOGIT_64(constraint, c)                                                                       \
  ISOLOGIT_FOUR(constraint, c, 0), ISOLOGIT_FOUR(constraint, c, 1), ISOLOGIT_FOUR(constraint, c, 2),     \
      ISOLOGIT_FOUR(constraint, c, 3), ISOLOGIT_FOUR(constraint, c, 4), ISOLOGIT_FOUR(constraint, c, 5), \
      ISOLOGIT_FOUR(constraint, c, 6), ISOLOGIT_FOUR(constraint, c, 7)
#define ISOLOGIT_32_NAMES                                                                                      \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28," \
  "%29,%30,%31"

// c += a b of bytes, without a sign in a, with one in b: 8 NT hidden rows, 32 of the depth.
template <int NT>
__device__ __forceinline__ void wgmma_bytes(std::int32_t* c, const std::uint32_t* a, std::uint64_t b) {
  static_assert(NT == 4 || NT == 8);
  if constexpr (NT == 4) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15},"
        "{%16,%17,%18,%19},%20,1;"
        : ISOLOGIT_FOUR("+r", c, 0), ISOLOGIT_FOUR("+r", c, 1), ISOLOGIT_FOUR("+r", c, 2), ISOLOGIT_FOUR("+r", c, 3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {" ISOLOGIT_32_NAMES "},{%32,%33,%34,%35},%36,1;"
                 : ISOLOGIT_64("+r", c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
}

// c = a b in f32, or c += a b, of elements E: 128 hidden rows, 16 of the depth.
#define ISOLOGIT_WGMMA_F32(type, constraint, add)                                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" ISOLOGIT_32_NAMES                 \
               ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55," \
               "%56,%57,%58,%59,%60,%61,%62,%63},%64,%65," add ",1,1,0,0;"                                         \
               : ISOLOGIT_64(constraint, c), ISOLOGIT_64(constraint, c + 32)                                       \
               : "l"(a), "l"(b))
template <class E, bool FIRST>
__device__ __forceinline__ void wgmma_f32(float* c, std::uint64_t a, std::uint64_t b) {
  if constexpr (E::kFraction == 7 && FIRST) {
    ISOLOGIT_WGMMA_F32("bf16", "=f", "0");
  } else if constexpr (E::kFraction == 7) {
    ISOLOGIT_WGMMA_F32("bf16", "+f", "1");
  } else if constexpr (FIRST) {
    ISOLOGIT_WGMMA_F32("f16", "=f", "0");
  } else {
    ISOLOGIT_WGMMA_F32("f16", "+f", "1");
  }
}

#endif

}  // namespace isologit::detail::cuda
