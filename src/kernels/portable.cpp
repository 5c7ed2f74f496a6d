// Plain C++ (GCC and clang vector types of 16 bytes), for any CPU.
#include <type_traits>

#define ISOLOGIT_LANES 2  // doubles in a register
#include "kernels/backward_loops_impl.hpp"
#include "kernels/f32_tile.hpp"
#include "kernels/f64_tile.hpp"
#include "kernels/forward_loops_impl.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

using TwoDoubles = double __attribute__((vector_size(16)));
using FourFloats = float __attribute__((vector_size(16)));

template <class T>
struct Vector {
  using Element = T;
  using V = std::conditional_t<std::is_same_v<T, double>, TwoDoubles, FourFloats>;
  static constexpr auto kWidth = static_cast<std::int64_t>(16 / sizeof(T));
  static constexpr std::int64_t kGroup = 8;
  static constexpr std::size_t kHiddenRows = 3;
  static constexpr std::int64_t kFewRows = 6;
  static constexpr std::size_t kWeightRows = 4;
  static V zero() { return V{}; }
  static V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static V multiply_add(V a, V b, V c) { return a * b + c; }  // of doubles, a * b is exact, so this rounds once
  static void add_sums(T* to, const V (&v)[4]) {
    for (std::int64_t i = 0; i < 4; ++i) {
      T sum = v[i][0];
      for (std::int64_t lane = 1; lane < kWidth; ++lane) sum += v[i][lane];
      to[i] += sum;
    }
  }
  template <DType kDType>
  static void widen(const char* from, V (&to)[static_cast<std::size_t>(kGroup / kWidth)]) {
    T values[kGroup];
    for (std::int64_t i = 0; i < kGroup; ++i) values[i] = exact::load_element(from, kDType, i);
    std::memcpy(to, values, sizeof values);
  }
};

}  // namespace

Loops portable_loops() { return {loops::kFoldLoops, &loops::kBackwardLoops, &loops::kForwardLoops}; }

const Target& portable_target(const Entry& entry) {
  return only<F64Target<Panel<Vector<double>>>, k_portable_shape>(entry, portable_loops());
}

const Target& portable_fast_target(const Entry& entry) {
  return only<F32Target<Panel<Vector<float>>>, k_portable_fast_shape>(entry, portable_loops());
}

}  // namespace isologit::detail::kernels
