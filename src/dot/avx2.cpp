// Certified f64 accumulation with AVX2 and FMA: twelve accumulators of four doubles.
#include <immintrin.h>

#include "base/cpu.hpp"
#include "dot/f64_tile.hpp"
#include "dot/widen.hpp"

namespace isologit::dot {
namespace {

struct Vector {
  using V = __m256d;
  static constexpr std::int64_t kWidth = 4;
  static V zero() { return _mm256_setzero_pd(); }
  static V load(const double* from) { return _mm256_loadu_pd(from); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static double sum(V v) {
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
  static void widen(const char* from, DType dtype, std::int64_t count, double* to) {
    dot::widen(from, dtype, count, to);
  }
};

class Avx2 final : public F64Kernel<Vector> {
 public:
  std::string_view name() const override { return "avx2"; }
  std::string_view instruction_set() const override { return "AVX2 FMA"; }
  std::string why_not() const override { return base::cpu().avx2_fma ? "" : "the processor has no AVX2 with FMA"; }
  const fold::Lanes& lanes() const override { return fold::avx2_lanes(); }
};

}  // namespace

const Kernel& avx2_kernel() {
  static const Avx2 kernel;
  return kernel;
}

}  // namespace isologit::dot
