// Residual sums against the oracle.
#include "forward/tensors.hpp"

namespace isologit::test {
namespace {

TEST(Residual, EveryFamilyAndType) {
  oracle::Random random(1);
  for (const Family family : families) {
    for (const DType dtype : dtypes) {
      for (const int terms : {2, 3}) {
        const std::int64_t dim = 53;
        const Tensor x = Tensor::random(random, family, dtype, 4, 2, dim, 1);
        const Tensor a = Tensor::random(random, family, dtype, 4, 2, dim, 2);
        const Tensor b = Tensor::random(random, family, dtype, 4, 2, dim);
        const float multiplier = random.below(2) == 0 ? 1.0F : 0.22F;
        for (const std::string& kernel : exact_kernels()) {
          Tensor y(dtype, 4, 2, dim, 5);
          forward::ResidualRequest request{x.view(), a.view(), {}, multiplier, y.output()};
          if (terms == 3) request.b = b.view();
          const auto report = forward::residual(request, options_of(2, kernel));
          ASSERT_TRUE(report) << report.error().message;
          ASSERT_TRUE(y.gaps_untouched());
          for (std::int64_t t = 0; t < 4; ++t) {
            for (std::int64_t h = 0; h < 2; ++h) {
              for (std::int64_t d = 0; d < dim; ++d) {
                const double third = terms == 3 ? b.at(t, h, d) : 0;
                const double right = oracle::residual(x.at(t, h, d), static_cast<double>(multiplier), a.at(t, h, d),
                                                      third, format_of(dtype));
                ASSERT_TRUE(same(y.at(t, h, d), right)) << kernel << ' ' << name_of(family) << ' ' << dtype_name(dtype);
              }
            }
          }
        }
      }
    }
  }
}

// x + a on a boundary of bf16, or 2^-60 of it beside it: by way of f64 or f32 the latter round as ties.
TEST(Residual, NearTies) {
  Tensor x(DType::bf16, 1, 1, 96), a(DType::bf16, 1, 1, 96), y(DType::bf16, 1, 1, 96);
  for (std::int64_t d = 0; d < 96; ++d) {
    const int side = static_cast<int>(d % 3) - 1;
    x.set(0, 0, d, 1 + static_cast<double>(d % 32) * 0x1p-7);
    a.set(0, 0, d, 0x1p-8);
    // a = 2^-8 exactly is the tie; of the others the multiplier moves it.
    if (side != 0) a.set(0, 0, d, side * 0x1p-70);
  }
  for (const std::string& kernel : exact_kernels()) {
    ASSERT_TRUE(forward::residual({x.view(), a.view(), {}, 1, y.output()}, options_of(1, kernel)));
    for (std::int64_t d = 0; d < 96; ++d) {
      ASSERT_TRUE(same(y.at(0, 0, d), oracle::residual(x.at(0, 0, d), 1, a.at(0, 0, d), 0, oracle::format_bf16)));
    }
  }
  // f32: 1 + 2^-24 + 2^-80 is above the boundary.
  Tensor x32(DType::f32, 1, 1, 2), a32(DType::f32, 1, 1, 2), b32(DType::f32, 1, 1, 2), y32(DType::f32, 1, 1, 2);
  for (std::int64_t d = 0; d < 2; ++d) {
    x32.set(0, 0, d, 1);
    a32.set(0, 0, d, 0x1p-24);
    b32.set(0, 0, d, d == 0 ? 0x1p-80 : -0x1p-80);
  }
  ASSERT_TRUE(forward::residual({x32.view(), a32.view(), b32.view(), 1, y32.output()}));
  EXPECT_EQ(y32.at(0, 0, 0), 1 + 0x1p-23);
  EXPECT_EQ(y32.at(0, 0, 1), 1);
}

}  // namespace
}  // namespace isologit::test
