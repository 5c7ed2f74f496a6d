// Gates by the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/gate.cuh"

#include "activations.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::GateShape;
using oracle::Random;

constexpr GateShape kShapes[] = {GateShape::silu, GateShape::gelu_tanh, GateShape::relu_squared,
                                 GateShape::clamped_swish};
constexpr std::int64_t kTokens = 4;

// None is left open.
void check_gate(int kind, const Laid& g, const Laid* up, DType type, std::int64_t dim, const std::string& what,
                const oracle::GateParameters& parameters = {}) {
  const Laid y(type, kTokens, 1, dim, 2);
  Status status = {};
  isologit_cuda_gate_request request = {};
  request.kind = kind;
  request.gate = g.view();
  if (up != nullptr) request.up = up->view();
  request.alpha = static_cast<float>(parameters.alpha);
  request.limit = static_cast<float>(parameters.limit);
  request.y = y.output();
  request.status = &status.open;
  make_on_host(request, [](auto& launcher, const auto& r) { launch_gate(launcher, r); });
  EXPECT_EQ(status.open, 0U) << what;
  ASSERT_TRUE(y.gaps_untouched() && y.nans_are_the_one());
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto u = up != nullptr ? std::optional(up->at(t, 0, d)) : std::nullopt;
      const double right = oracle::gate(kShapes[kind], parameters, g.at(t, 0, d), u, format_of(type));
      ASSERT_TRUE(same(y.at(t, 0, d), right)) << what << ' ' << dtype_name(type) << " gate " << g.at(t, 0, d) << " up "
                                              << u.value_or(1) << " kind " << kind;
    }
  }
}

TEST(CudaGate, EveryFamilyAndType) {
  Random random(1);
  for (int kind = 0; kind < 4; ++kind) {
    for (const Family family : families) {
      for (const DType type : dtypes) {
        const std::int64_t dim = family == Family::normal && type == DType::bf16 ? 1100 : 45;
        const Laid g = Laid::random(random, family, type, kTokens, 1, dim, 1);
        const Laid u = Laid::random(random, family, type, kTokens, 1, dim);
        check_gate(kind, g, &u, type, dim, name_of(family));
        check_gate(kind, g, nullptr, type, dim, name_of(family));
      }
    }
  }
}

// g u on a boundary of the type (for bf16 and f16 where its bits are few), times what is next to 1, 1/2 or 0.
void check_sizes(int lowest, int highest, const std::string& what) {
  Random random(2);
  for (const int kind : {kSilu, kGeluTanh, kClampedSwish}) {
    for (const DType type : dtypes) {
      const std::int64_t dim = 96;
      Laid g(type, kTokens, 1, dim), u(type, kTokens, 1, dim);
      const int low = type == DType::f16 ? std::max(lowest, -14) : lowest;
      const int high = type == DType::f16 ? std::min(highest, 8) : highest;
      for (std::int64_t t = 0; t < kTokens; ++t) {
        for (std::int64_t d = 0; d < dim; ++d) {
          const double size = std::ldexp(1 + static_cast<double>(random.below(128)) * 0x1p-7,
                                         static_cast<int>(random.between(low, high)));
          g.set(t, 0, d, random.sign() * size);
          u.set(t, 0, d, random.sign() * (1 + static_cast<double>(random.below(128)) * 0x1p-7));
        }
      }
      oracle::GateParameters parameters;
      if (kind == kClampedSwish) parameters.limit = 1e30;
      if (kind == kClampedSwish) parameters.limit = static_cast<double>(1e30F);
      check_gate(kind, g, &u, type, dim, what, parameters);
    }
  }
}
TEST(CudaGate, FarOut) { check_sizes(2, 20, "far out"); }
TEST(CudaGate, NextToNothing) { check_sizes(-120, -8, "next to nothing"); }

// f32 u with 1 + u of many bits, where P is of three doubles.
TEST(CudaGate, SmallUps) {
  Random random(3);
  const std::int64_t dim = 64;
  Laid g(DType::f32, kTokens, 1, dim), u(DType::f32, kTokens, 1, dim);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t d = 0; d < dim; ++d) {
      g.set(t, 0, d,
            random.sign() *
                std::ldexp(1 + static_cast<double>(random.below(1 << 20)) * 0x1p-20, static_cast<int>(d % 12) - 4));
      u.set(t, 0, d,
            d % 5 == 0 ? -1.0 : random.sign() * std::ldexp(1 + random.uniform(), -static_cast<int>(random.below(140))));
    }
  }
  check_gate(kClampedSwish, g, &u, DType::f32, dim, "small ups",
             {static_cast<double>(1.702F), static_cast<double>(1e30F)});
}

// Pairs alone, without the f64 before them.
TEST(CudaGate, PairsDecideAllFamilies) {
  Random random(4);
  for (const int kind : {kSilu, kGeluTanh, kClampedSwish}) {
    for (const Family family : {Family::normal, Family::outliers, Family::wide, Family::tiny, Family::cancellation}) {
      for (const DType type : dtypes) {
        for (int i = 0; i < 300; ++i) {
          const double g = test::draw(random, family, type), u = test::draw(random, family, type);
          oracle::GateParameters parameters;
          parameters.limit = std::numeric_limits<double>::infinity();
          const GateNumbers n = {kind, parameters.alpha, kind == kClampedSwish ? 1.0 : 0.0, static_cast<int>(type)};
          if (g == 0 || u + n.shift == 0) continue;
          const double right = oracle::gate(kShapes[kind], parameters, g, u, format_of(type));
          ASSERT_TRUE(same(static_cast<double>(settled_gate(n, g, u)), right))
              << kind << ' ' << name_of(family) << ' ' << dtype_name(type) << ' ' << g << ' ' << u;
        }
      }
    }
  }
}

// What f64 is off by is within what is said of it, and more than one rounding.
TEST(CudaGate, F64IsWithinItsBound) {
  Random random(5);
  double most = 0;
  for (const int kind : {kSilu, kGeluTanh, kClampedSwish}) {
    const GateNumbers n = {kind, static_cast<double>(1.702F), kind == kClampedSwish ? 1.0 : 0.0, kF32};
    for (int i = 0; i < 20000; ++i) {
      const double g = std::ldexp(test::draw(random, Family::normal, DType::f32), static_cast<int>(i % 12) - 4);
      const double u = test::draw(random, Family::normal, DType::f32);
      const Pair x = gate_exponent(n, g);
      if (g == 0 || std::fabs(x.hi) > 300) continue;
      const Pair e = value_of(exponential(x.hi > 0 ? negative(x) : x));
      const Pair product = multiply(sum_of(u, n.shift), {g, 0.0});
      const Pair right = divide(x.hi > 0 ? product : multiply(product, e), add({1.0, 0.0}, e));
      const NearGate near = gate_near(n, g, u);
      const double off = std::fabs((near.value - right.hi) - right.lo);
      ASSERT_LE(off, near.error) << kind << ' ' << g << ' ' << u;
      most = std::max(most, off / std::fabs(right.hi));
    }
  }
  EXPECT_GT(most, 0x1p-50);
}

// silu and gelu_tanh of two bf16 or two f16 numbers are never within 2^-70 of a boundary but where g u or g u / 2 is
// one and x far out or next to nothing, which settled_gate tells by a sign: so pairs, to 2^-92, leave none open. A
// boundary has one bit more than the type; those of subnormal results have fewer. Only significands of u matter.
TEST(CudaGate, NoneOfTwoNarrowNumbersIsNearABoundary) {
  for (const DType type : {DType::bf16, DType::f16}) {
    const int bits = type == DType::bf16 ? 8 : 11;
    for (const int kind : {kSilu, kGeluTanh}) {
      double nearest = 1;
      for (std::uint32_t magnitude = 1; magnitude < (type == DType::bf16 ? 0x7F80U : 0x7C00U); ++magnitude) {
        for (const std::uint32_t sign : {0U, 0x8000U}) {
          const auto element = static_cast<std::uint16_t>(magnitude | sign);
          const double g = oracle::decode(type, &element, 0);
          const Pair x = gate_exponent({kind, 0.0, 0.0, 0}, g);
          if (std::fabs(x.hi) > 300 || std::fabs(x.hi) < 0x1p-30 || x.hi > 28) continue;
          const Pair e = value_of(exponential(x.hi > 0 ? negative(x) : x));
          Pair s = divide(x.hi > 0 ? Pair{g, 0.0} : multiply({g, 0.0}, e), add({1.0, 0.0}, e));
          s = scaled(s, std::ldexp(1.0, -std::ilogb(s.hi)));
          for (int m = 1 << (bits - 1); m < 1 << bits; ++m) {
            const Pair product = multiply(s, {static_cast<double>(m), 0.0});
            // In units of the bit below the type's last.
            const double unit = std::ldexp(1.0, std::ilogb(product.hi) - bits);
            const double off = product.hi / unit - std::rint(product.hi / unit);  // exact
            nearest = std::min(nearest, std::fabs(off + product.lo / unit));
          }
        }
      }
      EXPECT_GT(nearest, 0x1p-60) << dtype_name(type) << ' ' << kind;
      EXPECT_LT(nearest, 0x1p-20) << dtype_name(type) << ' ' << kind;  // all were looked at
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
