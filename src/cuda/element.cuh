// Elements of the weight: eight adjacent ones at a time as they lie in memory, and as the f64 the products are made of.
//
// widen() costs two or three integer instructions instead of a conversion (a sixteenth of the rate of other arithmetic
// on sm_90): the exponent and fraction fields are moved to where f64 has them and the exponent's bias is left as it is,
// so the result is the element times 2^-kBias. Subnormal elements become subnormal or small f64 of the same scale. The
// hidden side carries the opposite factor (prepare.cuh, split.cuh). Infinity and NaN become finite numbers here: rows
// that hold any are found by their sum of squares (certificate.cuh), and their logits settled apart.
#pragma once

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "cuda/bits.cuh"

namespace isologit::detail::cuda {

struct Bf16 {
  using Bits = std::uint16_t;
  static constexpr int kFraction = 7;   // bits after the point
  static constexpr int kLowest = -133;  // exponent of the smallest subnormal
  static constexpr int kBias = 1023 - 127;
  ISOLOGIT_DEVICE static float value(std::uint32_t bits) { return bit_cast<float>(bits << 16); }
  ISOLOGIT_DEVICE static double widen(std::uint32_t bits) {
    return from_words(static_cast<std::uint32_t>(static_cast<std::int32_t>(bits << 16) >> 3) & 0x8FFFE000U, 0);
  }
};

struct F16 {
  using Bits = std::uint16_t;
  static constexpr int kFraction = 10;
  static constexpr int kLowest = -24;
  static constexpr int kBias = 1023 - 15;
  ISOLOGIT_DEVICE static float value(std::uint32_t bits) {
#ifdef __CUDACC__
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
#else
    const std::uint32_t sign = (bits & 0x8000U) << 16;
    const std::uint32_t magnitude = bits & 0x7FFFU;
    if (magnitude >= 0x7C00U) return bit_cast<float>(sign | 0x7F800000U | (magnitude & 0x3FFU) << 13);
    return bit_cast<float>(sign | bit_cast<std::uint32_t>(bit_cast<float>(magnitude << 13) * 0x1p112F));
#endif
  }
  ISOLOGIT_DEVICE static double widen(std::uint32_t bits) {
    return from_words((bits & 0x8000U) << 16 | (bits & 0x7FFFU) << 10, 0);
  }
};

struct F32 {
  using Bits = std::uint32_t;
  static constexpr int kFraction = 23;
  static constexpr int kLowest = -149;
  static constexpr int kBias = 1023 - 127;
  ISOLOGIT_DEVICE static float value(std::uint32_t bits) { return bit_cast<float>(bits); }
  ISOLOGIT_DEVICE static double widen(std::uint32_t bits) {
    return from_words(static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 3) & 0x8FFFFFFFU, bits << 29);
  }
};

// A type of elements that is known only when a kernel runs; the values are isologit_matrix's.
enum : int { kBf16 = 0, kF16 = 1, kF32 = 2 };
inline std::int64_t element_size(int type) { return type == kF32 ? 4 : 2; }
ISOLOGIT_DEVICE float element_value(const void* data, int type, std::int64_t index) {
  if (type == kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == kBf16 ? Bf16::value(bits) : F16::value(bits);
}

// The hidden side is scaled by 2^kHiddenBias, the largest that keeps every finite f32 finite.
inline constexpr int kHiddenBias = 896;
// What a sum of products is multiplied by, a power of two: no rounding.
template <class E>
ISOLOGIT_DEVICE double unscale(double sum) {
  return E::kBias == kHiddenBias ? sum : sum * power_of_two(E::kBias - kHiddenBias);
}

struct alignas(16) Sixteen {  // bytes, one load or copy
  std::uint32_t word[4];
};

#ifdef __CUDACC__
// Of what passes once: not kept in the first-level cache. Volatile: what stands before a wait for another kernel stays
// there.
ISOLOGIT_DEVICE Sixteen load_once(const uint4* at) {
  Sixteen x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.word[0]), "=r"(x.word[1]), "=r"(x.word[2]), "=r"(x.word[3])
               : "l"(at));
  return x;
}
#endif

// Eight adjacent elements.
template <class E>
struct Chunk {
  static constexpr int kParts = static_cast<int>(sizeof(typename E::Bits)) / 2;
  Sixteen part[kParts];

  ISOLOGIT_DEVICE std::uint32_t bits(int j) const {
    if (sizeof(typename E::Bits) == 4) return part[j / 4].word[j % 4];
    const std::uint32_t word = part[0].word[j / 2];
    return j % 2 == 0 ? word & 0xFFFFU : word >> 16;
  }
  ISOLOGIT_DEVICE float value(int j) const { return E::value(bits(j)); }
  ISOLOGIT_DEVICE double widen(int j) const { return E::widen(bits(j)); }
};

// Elements first to first + 7 of a row of `size`, zeros past its end. ALIGNED: the row begins at a multiple of 16 bytes
// and holds a multiple of eight elements. ONCE: past the first-level cache.
template <class E, bool ALIGNED, bool ONCE = false>
ISOLOGIT_DEVICE Chunk<E> load_chunk(const typename E::Bits* row, int first, int size) {
  Chunk<E> chunk = {};
  if (ALIGNED) {
    if (first < size) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < Chunk<E>::kParts; ++i) {
#ifdef __CUDACC__
        const auto* at = reinterpret_cast<const uint4*>(row + first) + i;
        if (ONCE) {
          chunk.part[i] = load_once(at);
        } else {
          const uint4 x = __ldg(at);
          chunk.part[i] = {{x.x, x.y, x.z, x.w}};
        }
#else
        memcpy(&chunk.part[i], row + first + i * (16 / static_cast<int>(sizeof(typename E::Bits))), sizeof(Sixteen));
#endif
      }
    }
  } else {
    ISOLOGIT_UNROLL
    for (int j = 0; j < 8; ++j) {
      std::uint32_t bits = 0;
      if (first + j < size) {
        typename E::Bits at;
#ifdef __CUDACC__
        at = __ldg(row + first + j);
#else
        memcpy(&at, reinterpret_cast<const char*>(row) + static_cast<std::int64_t>(first + j) * sizeof at, sizeof at);
#endif
        bits = at;
      }
      if (sizeof(typename E::Bits) == 4) {
        chunk.part[j / 4].word[j % 4] = bits;
      } else {
        chunk.part[0].word[j / 2] |= bits << 16 * (j % 2);
      }
    }
  }
  return chunk;
}

}  // namespace isologit::detail::cuda
