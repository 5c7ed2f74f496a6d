#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "isologit/backward.hpp"
#include "oracle/cases.hpp"
#include "oracle/gradient.hpp"
#include "oracle/round.hpp"
#include "oracle/values.hpp"

namespace isologit::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(MeanLoss, EqualsTheOracle) {
  oracle::Random random(5);
  for (std::size_t count = 1; count < 60; ++count) {
    std::vector<float> logprobs;
    for (std::size_t i = 0; i < count; ++i) {
      logprobs.push_back(-std::fabs(static_cast<float>(random.normal() * (i % 3 == 0 ? 1e-6 : 10.0))));
    }
    EXPECT_EQ(oracle::bits_of(mean_loss(logprobs)), oracle::bits_of(oracle::mean_loss(logprobs)));
    const auto n = static_cast<std::int64_t>(count);
    for (const float g : {1.0F, -0.3F, 0x1p-149F, 3e38F, 0.0F}) {
      EXPECT_EQ(oracle::bits_of(mean_loss_upstream(g, n)), oracle::bits_of(oracle::mean_loss_upstream(g, n)));
    }
  }
}

TEST(SumLoss, EqualsTheOracle) {
  oracle::Random random(6);
  std::vector<float> logprobs;
  EXPECT_EQ(oracle::bits_of(sum_loss(logprobs)), 0U);
  for (int i = 0; i < 60; ++i) {
    logprobs.push_back(static_cast<float>(random.normal() * (i % 3 == 0 ? 1e-6 : 10.0)));
    mpq_class sum = 0;
    for (const float x : logprobs) sum += mpq_class(x);
    EXPECT_EQ(sum_loss(logprobs), oracle::rn32(-sum));
  }
  logprobs[7] = kNan;
  EXPECT_EQ(oracle::bits_of(sum_loss(logprobs)), 0x7FC00000U);
  const std::vector<std::int64_t> ids{1, -100, 2};
  EXPECT_EQ(sum_loss(std::vector<float>{-1.0F, kNan, -2.0F}, ids), 3.0F);
  EXPECT_EQ(sum_loss(std::vector<float>{-1.0F, -kInfinity}), kInfinity);
}

TEST(MeanLoss, CountsOnlyRowsThatAreNotIgnored) {
  const std::vector<float> logprobs{-1.0F, kNan, -2.0F};
  const std::vector<std::int64_t> ids{4, -100, 5};
  EXPECT_EQ(mean_loss(logprobs, ids), 1.5F);
  EXPECT_EQ(oracle::bits_of(mean_loss(logprobs, ids, 5)), 0x7FC00000U);
  const std::vector<std::int64_t> none(3, -100);
  EXPECT_EQ(oracle::bits_of(mean_loss(logprobs, none)), 0x7FC00000U);
}

TEST(MeanLoss, SpecialValues) {
  EXPECT_EQ(mean_loss(std::vector<float>{-1.0F, -kInfinity}), kInfinity);
  EXPECT_EQ(oracle::bits_of(mean_loss(std::vector<float>{-1.0F, kNan})), 0x7FC00000U);
  EXPECT_EQ(mean_loss_upstream(kInfinity, 3), -kInfinity);
  EXPECT_EQ(oracle::bits_of(mean_loss_upstream(1.0F, 0)), 0x7FC00000U);
}

}  // namespace
}  // namespace isologit::test
