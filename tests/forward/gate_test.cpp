// Gates against the oracle.
#include <cmath>

#include "forward/tensors.hpp"

namespace isologit::test {
namespace {

using forward::GateKind;

struct Pair {
  GateKind kind;
  oracle::GateShape shape;
};
constexpr Pair kinds[] = {{GateKind::silu, oracle::GateShape::silu},
                          {GateKind::gelu_tanh, oracle::GateShape::gelu_tanh},
                          {GateKind::relu_squared, oracle::GateShape::relu_squared},
                          {GateKind::clamped_swish, oracle::GateShape::clamped_swish}};

void check(const Pair& kind, const Tensor& g, const Tensor* u, DType dtype, std::int64_t dim, const std::string& what) {
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(dtype, 4, 1, dim, 2);
    forward::GateRequest request;
    request.kind = kind.kind;
    request.gate = g.view();
    if (u != nullptr) request.up = u->view();
    request.y = y.output();
    const auto report = forward::gate(request, options_of(2, kernel));
    ASSERT_TRUE(report) << report.error().message;
    ASSERT_TRUE(y.gaps_untouched());
    for (std::int64_t t = 0; t < 4; ++t) {
      for (std::int64_t d = 0; d < dim; ++d) {
        const auto up = u != nullptr ? std::optional(u->at(t, 0, d)) : std::nullopt;
        const double right = oracle::gate(kind.shape, {}, g.at(t, 0, d), up, format_of(dtype));
        ASSERT_TRUE(same(y.at(t, 0, d), right))
            << kernel << ' ' << what << ' ' << dtype_name(dtype) << " gate " << g.at(t, 0, d) << " up "
            << up.value_or(1) << " kind " << static_cast<int>(kind.kind);
      }
    }
  }
}

TEST(Gate, EveryFamilyAndType) {
  oracle::Random random(1);
  for (const Pair& kind : kinds) {
    for (const Family family : families) {
      for (const DType dtype : dtypes) {
        const std::int64_t dim = 45;
        const Tensor g = Tensor::random(random, family, dtype, 4, 1, dim, 1);
        const Tensor u = Tensor::random(random, family, dtype, 4, 1, dim);
        check(kind, g, &u, dtype, dim, name_of(family));
        check(kind, g, nullptr, dtype, dim, name_of(family));
      }
    }
  }
}

// Where the exponential is far below an ulp of 1 the gate is g u less next to nothing, which shows where g u is a
// boundary; and where it is huge, next to nothing is left.
TEST(Gate, FarOut) {
  oracle::Random random(2);
  for (const Pair& kind : kinds) {
    for (const DType dtype : dtypes) {
      const std::int64_t dim = 48;
      Tensor g(dtype, 4, 1, dim), u(dtype, 4, 1, dim);
      for (std::int64_t t = 0; t < 4; ++t) {
        for (std::int64_t d = 0; d < dim; ++d) {
          const double size = std::ldexp(1 + static_cast<double>(random.below(128)) * 0x1p-7,
                                         static_cast<int>(random.between(2, dtype == DType::f16 ? 8 : 20)));
          g.set(t, 0, d, random.sign() * size);
          u.set(t, 0, d, random.sign() * (1 + static_cast<double>(random.below(128)) * 0x1p-7));
        }
      }
      check(kind, g, &u, dtype, dim, "far out");
    }
  }
}

}  // namespace
}  // namespace isologit::test
