// NEON of AArch64: twenty-four accumulators of two doubles (neon) or four floats (neon_fast).
#include <arm_neon.h>

#include "kernels/f32_tile.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/fold_loops.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

template <DType kDType>
float32x4_t load_floats(const char* from) {
  if constexpr (kDType == DType::f32) {
    float32x4_t floats;
    std::memcpy(&floats, from, sizeof floats);
    return floats;
  } else {
    uint16x4_t bits;
    std::memcpy(&bits, from, sizeof bits);
    if constexpr (kDType == DType::f16) return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
  }
}

struct Doubles {
  using Element = double;
  using V = float64x2_t;
  static constexpr std::int64_t kWidth = 2;
  static constexpr std::int64_t kGroup = 4;
  static constexpr std::size_t kHiddenRows = 6;
  static constexpr std::int64_t kFewRows = 12;
  static constexpr std::size_t kWeightRows = 2;
  static V zero() { return vdupq_n_f64(0); }
  static V load(const double* from) { return vld1q_f64(from); }
  static V multiply_add(V a, V b, V c) { return vfmaq_f64(c, a, b); }
  static void add_sums(double* to, const V (&v)[4]) {
    vst1q_f64(to, vaddq_f64(vld1q_f64(to), vpaddq_f64(v[0], v[1])));
    vst1q_f64(to + 2, vaddq_f64(vld1q_f64(to + 2), vpaddq_f64(v[2], v[3])));
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[2]) {
    const float32x4_t floats = load_floats<kDType>(from);
    to[0] = vcvt_f64_f32(vget_low_f32(floats));
    to[1] = vcvt_high_f64_f32(floats);
  }
};

struct Floats {
  using Element = float;
  using V = float32x4_t;
  static constexpr std::int64_t kWidth = 4;
  static constexpr std::int64_t kGroup = 4;
  static constexpr std::size_t kHiddenRows = 6;
  static constexpr std::int64_t kFewRows = 12;
  static constexpr std::size_t kWeightRows = 4;
  static V zero() { return vdupq_n_f32(0); }
  static V load(const float* from) { return vld1q_f32(from); }
  static V multiply_add(V a, V b, V c) { return vfmaq_f32(c, a, b); }
  static void add_sums(float* to, const V (&v)[4]) {
    vst1q_f32(to, vaddq_f32(vld1q_f32(to), vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]))));
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[1]) {
    to[0] = load_floats<kDType>(from);
  }
};

}  // namespace

const Target& neon_target(const Entry& entry) {
  return only<F64Target<Panel<Doubles>>, k_neon_shape>(entry, portable_loops());
}

const Target& neon_fast_target(const Entry& entry) {
  return only<F32Target<Panel<Floats>>, k_neon_fast_shape>(entry, portable_loops());
}

}  // namespace isologit::detail::kernels
