// Sums over experts against the oracle, of three at a time: residual's p1 x1 + p0 x0 + p2 x2, whose outer products f64
// holds exactly.
#include <cmath>

#include "forward/tensors.hpp"
#include "isologit/forward_backward.hpp"

namespace isologit::test {
namespace {

constexpr std::int64_t kTokens = 6, kExperts = 3, kDim = 19;

TEST(Combine, EveryFamilyAndType) {
  oracle::Random random(7);
  for (const Family family : families) {
    for (const DType dtype : dtypes) {
      const Tensor x = Tensor::random(random, family, dtype, kTokens, kExperts, kDim, 2);
      std::vector<float> weights;
      for (std::int64_t i = 0; i < kTokens * kExperts; ++i) {
        weights.push_back(static_cast<float>(draw(random, Family::normal, DType::f32)));
      }
      const auto weight = [&](std::int64_t t, std::int64_t e) {
        return static_cast<double>(weights[static_cast<std::size_t>(t * kExperts + e)]);
      };
      for (const std::string& kernel : exact_kernels()) {
        Tensor y(dtype, kTokens, 1, kDim, 1);
        const auto report = forward::combine({x.view(), weights, y.output()}, options_of(2, kernel));
        ASSERT_TRUE(report) << report.error().message;
        ASSERT_TRUE(y.gaps_untouched());
        for (std::int64_t i = 0; i < kTokens * kDim; ++i) {
          const std::int64_t t = i / kDim, d = i % kDim;
          const double right = oracle::residual(weight(t, 0) * x.at(t, 0, d), weight(t, 1), x.at(t, 1, d),
                                                weight(t, 2) * x.at(t, 2, d), format_of(dtype));
          ASSERT_TRUE(same(y.at(t, 0, d), right)) << kernel << ' ' << name_of(family) << ' ' << dtype_name(dtype);
        }
      }
    }
  }
}

TEST(Combine, Gradients) {
  oracle::Random random(8);
  const Tensor x = Tensor::random(random, Family::normal, DType::f32, kTokens, kExperts, kDim, 2);
  const Tensor dy = Tensor::random(random, Family::normal, DType::f32, kTokens, 1, kDim, 1);
  const std::vector<float> weights(kTokens * kExperts, 0.3F);
  for (const std::string& kernel : exact_kernels()) {
    Tensor dx(DType::f32, kTokens, kExperts, kDim, 3);
    std::vector<float> dweights(kTokens * kExperts);
    const auto report = forward::combine_backward({{x.view(), weights, {}}, dy.view(), dx.output(), dweights.data()},
                                                  options_of(2, kernel));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(dx.gaps_untouched());
    for (std::int64_t row = 0; row < kTokens * kExperts; ++row) {
      const std::int64_t t = row / kExperts, e = row % kExperts;
      double sum = 0, size = 0;
      for (std::int64_t d = 0; d < kDim; ++d) {
        const double product = static_cast<double>(0.3F) * dy.at(t, 0, d);
        ASSERT_TRUE(same(dx.at(t, e, d), static_cast<double>(static_cast<float>(product))));
        sum += x.at(t, e, d) * dy.at(t, 0, d);
        size += std::fabs(x.at(t, e, d) * dy.at(t, 0, d));
      }
      EXPECT_LE(std::fabs(static_cast<double>(dweights[static_cast<std::size_t>(row)]) - sum), size * 0x1p-23);
    }
  }
}

TEST(Combine, RefusesByName) {
  const Tensor x(DType::f32, 2, 3, 4);
  Tensor y(DType::f32, 2, 1, 4);
  const std::vector<float> weights(5);
  const auto report = forward::combine({x.view(), weights, y.output()});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message, "weights: 5; expected one for each of 2 tokens' 3 experts");
  std::vector<float> all(24);
  const std::span<const float> six(all.data(), 6);
  const forward::TensorOutput dx{all.data(), 12, 4};
  const auto onto = forward::combine_backward({{x.view(), six, {}}, y.view(), {}, all.data()});
  ASSERT_FALSE(onto);
  EXPECT_EQ(onto.error().message, "dweights: the output buffer overlaps the input weights");
  const auto both = forward::combine_backward({{x.view(), six, {}}, y.view(), dx, nullptr});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().message, "dx: the output buffer overlaps the input weights");
}

}  // namespace
}  // namespace isologit::test
