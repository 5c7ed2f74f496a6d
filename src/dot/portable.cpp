// Certified f64 accumulation in plain C++ (GCC and clang vector types of two doubles), for any CPU.
#include "dot/f64_tile.hpp"
#include "dot/widen.hpp"
#include "fold/lanes.hpp"

namespace isologit::dot {
namespace {

struct Vector {
  using V = double __attribute__((vector_size(16)));
  static constexpr std::int64_t kWidth = 2;
  static V zero() { return V{0, 0}; }
  static V load(const double* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static V multiply_add(V a, V b, V c) { return a * b + c; }  // a * b is exact, so this rounds once
  static double sum(V v) { return v[0] + v[1]; }
  static void widen(const char* from, DType dtype, std::int64_t count, double* to) {
    dot::widen(from, dtype, count, to);
  }
};

class Portable final : public F64Kernel<Vector> {
 public:
  std::string_view name() const override { return "portable"; }
  std::string_view instruction_set() const override { return "any"; }
  std::string why_not() const override { return {}; }
  const fold::Lanes& lanes() const override { return fold::portable_lanes(); }
};

}  // namespace

const Kernel& portable_kernel() {
  static const Portable kernel;
  return kernel;
}

}  // namespace isologit::dot
