// AVX-512: twenty-four accumulators of eight doubles (avx512) or sixteen floats (avx512_fast).
#include "dot/avx512_vectors.hpp"
#include "dot/f32_tile.hpp"
#include "dot/f64_tile.hpp"

namespace isologit::dot {
namespace {

class Avx512 final : public F64Kernel<Panel<Doubles>> {
 public:
  using F64Kernel::F64Kernel;
  const fold::Lanes& lanes() const override { return fold::avx2_lanes(); }
};

class Avx512Fast final : public F32Kernel<Panel<Floats>> {
 public:
  using F32Kernel::F32Kernel;
  const fold::Lanes& lanes() const override { return fold::avx2_lanes(); }
};

}  // namespace

const Kernel& avx512_kernel(const Entry& entry) {
  static const Avx512 kernel(entry);
  return kernel;
}

const Kernel& avx512_fast_kernel(const Entry& entry) {
  static const Avx512Fast kernel(entry);
  return kernel;
}

}  // namespace isologit::dot
