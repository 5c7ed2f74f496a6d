// The greatest magnitude and the lowest set bit of a row, found in the bits: among numbers of one sign, a greater
// pattern is a greater number.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>

#include "exact/element.hpp"

namespace isologit::detail::kernels {
namespace {

// The greatest magnitude of the elements seen so far, infinite or NaN when one of them is. Kept lane by lane until it
// is asked for.
class GreatestMagnitude {
 public:
  template <DType kDType>
  void see(const char* from, std::int64_t count) {
    if constexpr (kDType == DType::f32) {
      raise<Words, std::int32_t>(from, count);
    } else {
      raise<Shorts, std::int16_t>(from, count);
    }
  }

  double of(DType dtype) const {
    return dtype == DType::f32 ? greatest<std::int32_t>(dtype) : greatest<std::int16_t>(dtype);
  }

 private:
#if defined(__AVX512BW__)
  static constexpr std::size_t kBytes = 64;
#else
  static constexpr std::size_t kBytes = 32;
#endif
  using Words = std::int32_t __attribute__((vector_size(kBytes)));
  using Shorts = std::int16_t __attribute__((vector_size(kBytes)));

  template <class Lanes, class Bits>
  void raise(const char* from, std::int64_t count) {
    constexpr auto kLanes = static_cast<std::int64_t>(kBytes / sizeof(Bits));
    auto greatest = reinterpret_cast<Lanes>(lanes_);
    const auto take = [&](const char* at) {
      Lanes lanes;
      std::memcpy(&lanes, at, kBytes);
      lanes &= std::numeric_limits<Bits>::max();
      greatest = lanes > greatest ? lanes : greatest;
    };
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes, from += kBytes) take(from);
    if (i < count) {
      char rest[kBytes] = {};
      std::memcpy(rest, from, static_cast<std::size_t>(count - i) * sizeof(Bits));
      take(rest);
    }
    lanes_ = reinterpret_cast<Words>(greatest);
  }

  template <class Bits>
  double greatest(DType dtype) const {
    Bits lanes[kBytes / sizeof(Bits)];
    std::memcpy(lanes, &lanes_, kBytes);
    // By halves, of which compilers make vectors.
#pragma GCC unroll 8
    for (std::size_t half = std::size(lanes) / 2; half > 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) lanes[i] = std::max(lanes[i], lanes[i + half]);
    }
    return static_cast<double>(exact::load_element(lanes, dtype, 0));
  }

  Words lanes_ = {};  // in memory as chars it would go there at every step: GCC 12 takes the copy apart
};

inline double greatest_of(const void* row, DType dtype, std::int64_t count) {
  GreatestMagnitude magnitude;
  exact::with_dtype(dtype, [&]<DType kDType>() { magnitude.see<kDType>(static_cast<const char*>(row), count); });
  return magnitude.of(dtype);
}

template <DType kDType>
std::uint32_t lowest_bits(const char* from, std::int64_t count) {
  std::uint32_t least = 0xFFFFFFFF;
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = exact::load_element(from, kDType, i);
    const auto bits = std::bit_cast<std::uint32_t>(x);
    // Clearing the lowest set bit of the significand leaves a number below; the difference is exact.
    const std::uint32_t cleared = (bits & 0x7FFFFF) != 0 ? bits & (bits - 1) : 0;
    const std::uint32_t bit = std::bit_cast<std::uint32_t>(x - std::bit_cast<float>(cleared)) & 0x7FFFFFFF;
    least = std::min(least, bit - 1);  // that of 0 is the greatest
  }
  return least;
}

// The least of the lowest set bits of a row of finite elements, +inf when all are 0.
inline double lowest_bit(const void* row, DType dtype, std::int64_t count) {
  const std::uint32_t least = exact::with_dtype(
      dtype, [&]<DType kDType>() { return lowest_bits<kDType>(static_cast<const char*>(row), count); });
  if (least == 0xFFFFFFFF) return std::numeric_limits<double>::infinity();
  return static_cast<double>(std::bit_cast<float>(least + 1));
}

}  // namespace
}  // namespace isologit::detail::kernels
