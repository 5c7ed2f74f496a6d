// RMSNorm and LayerNorm against the oracle.
#include <cmath>
#include <cstring>

#include "forward/tensors.hpp"

namespace isologit::test {
namespace {

using oracle::Random;

struct NormCase {
  DType dtype;
  DType weight;
  Family family;
  std::int64_t dim;
  bool centred;
  bool one_plus_weight;
  float epsilon;
};

void check(const NormCase& c, std::uint64_t seed) {
  Random random(seed);
  const Tensor x = Tensor::random(random, c.family, c.dtype, 3, 2, c.dim, 3);
  const Vector weight =
      random_vector(random, c.family == Family::specials ? c.family : Family::normal, c.weight, c.dim);
  const Vector bias = random_vector(random, c.family, c.weight, c.dim);
  const auto right = [&](std::int64_t t, std::int64_t h, std::int64_t d) {
    const auto at = static_cast<std::size_t>(d);
    const std::vector<double> row = x.row(t, h);
    const auto epsilon = static_cast<double>(c.epsilon);
    return c.centred ? oracle::layer_norm(row, at, weight.values[at], bias.values[at], epsilon, format_of(c.dtype))
                     : oracle::rms_norm(row, at, weight.values[at], epsilon, c.one_plus_weight, format_of(c.dtype));
  };
  Tensor first(c.dtype, 3, 2, c.dim, 3);
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(c.dtype, 3, 2, c.dim, 3);
    const forward::Options options = options_of(2, kernel);
    const auto report =
        c.centred ? forward::layer_norm({x.view(), weight.view(), bias.view(), c.epsilon, y.output()}, options)
                  : forward::rms_norm({x.view(), weight.view(), c.epsilon, c.one_plus_weight, y.output()}, options);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->kernel, kernel);
    ASSERT_TRUE(y.gaps_untouched());
    if (kernel != exact_kernels().front()) {
      ASSERT_TRUE(y == first) << kernel << ' ' << name_of(c.family);
      continue;
    }
    first = y;
    for (std::int64_t t = 0; t < 3; ++t) {
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t d = 0; d < c.dim; ++d) {
          ASSERT_TRUE(same(y.at(t, h, d), right(t, h, d)))
              << kernel << ' ' << name_of(c.family) << ' ' << dtype_name(c.dtype) << " [" << t << ", " << h << ", " << d
              << "] " << (c.centred ? "layer" : "rms");
        }
      }
    }
  }
}

TEST(Norm, EveryFamilyAndType) {
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType dtype : dtypes) {
      for (const bool centred : {false, true}) {
        for (const std::int64_t dim : {1, 16, 37, 128}) {
          check({dtype, dtype, family, dim, centred, seed % 3 == 0, seed % 4 == 0 ? 0.0F : 1e-6F}, seed);
          ++seed;
        }
      }
    }
  }
}

TEST(Norm, WeightsOfAnotherType) {
  check({DType::bf16, DType::f32, Family::normal, 64, false, true, 1e-5F}, 100);
  check({DType::f32, DType::bf16, Family::normal, 64, true, false, 1e-5F}, 101);
}

// Rows of one number x, a power of two: 1 / sqrt(mean) is exact without epsilon, so results are the weights times a
// power of two, and weights of f32 on a boundary of bf16 are ties.
TEST(Norm, ExactTiesGoToEven) {
  Random random(7);
  Tensor x(DType::bf16, 1, 1, 16);
  Vector weight = random_vector(random, Family::normal, DType::f32, 16);
  for (std::int64_t d = 0; d < 16; ++d) {
    x.set(0, 0, d, d % 2 == 0 ? 4.0 : -4.0);
    const float w = 1.0F + static_cast<float>(2 * d + 1) * 0x1p-8F;  // between two numbers of bf16
    weight.values[static_cast<std::size_t>(d)] = static_cast<double>(w);
    std::memcpy(weight.bytes.data() + 4 * d, &w, sizeof w);
  }
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(DType::bf16, 1, 1, 16);
    const auto report = forward::rms_norm({x.view(), weight.view(), 0, false, y.output()}, options_of(1, kernel));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->settled, 16);
    for (std::int64_t d = 0; d < 16; ++d) {
      const double right = oracle::rms_norm(x.row(0, 0), static_cast<std::size_t>(d),
                                            weight.values[static_cast<std::size_t>(d)], 0, false, oracle::format_bf16);
      EXPECT_TRUE(same(y.at(0, 0, d), right));
      const double down = 1 + static_cast<double>(2 * d) * 0x1p-8;
      EXPECT_EQ(std::fabs(right), d % 2 == 0 ? down : down + 0x1p-7);
    }
  }
}

TEST(Norm, InPlace) {
  Random random(8);
  Tensor x = Tensor::random(random, Family::normal, DType::bf16, 40, 4, 64);
  Tensor y(DType::bf16, 40, 4, 64);
  const Vector weight = random_vector(random, Family::normal, DType::bf16, 64);
  ASSERT_TRUE(forward::rms_norm({x.view(), weight.view(), 1e-6F, false, y.output()}));
  ASSERT_TRUE(forward::rms_norm({x.view(), weight.view(), 1e-6F, false, x.output()}));
  EXPECT_TRUE(x == y);
}

}  // namespace
}  // namespace isologit::test
