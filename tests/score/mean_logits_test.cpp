// mean_logits: sums of logits of any sizes, rounded once, of special rows and of none.
#include "fold/mean_logits.hpp"

#include <limits>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float folded(const std::vector<float>& z, const std::vector<std::uint8_t>& mask) {
  detail::fold::MeanLogits mean;
  mean.absorb(z.data(), mask.empty() ? nullptr : mask.data(), static_cast<std::int64_t>(z.size()));
  return mean.finish();
}

void expect_right(const std::vector<float>& z, const std::vector<std::uint8_t>& mask = {}) {
  const float wanted = oracle::Row(z, mask).mean_logits();
  EXPECT_EQ(oracle::bits_of(folded(z, mask)), oracle::bits_of(wanted)) << folded(z, mask) << " for " << wanted;
}

TEST(MeanLogitsFold, AnySizes) {
  oracle::Random random(4);
  for (int i = 0; i < 300; ++i) {
    std::vector<float> z;
    std::vector<std::uint8_t> mask;
    for (std::uint64_t count = 1 + random.below(40); count > 0; --count) {
      std::uint32_t bits = static_cast<std::uint32_t>(random.below(std::uint64_t{1} << 32));
      if (i % 3 == 0) bits = (bits & 0x807FFFFFU) | 0x3F800000U;  // of one size
      if (i % 3 == 1) bits &= 0x81FFFFFFU;                        // subnormal ones too
      const float x = std::bit_cast<float>(bits);
      z.push_back(std::isfinite(x) ? x : 1.0F);
      mask.push_back(random.below(3) == 0 ? 0 : 1);
    }
    expect_right(z);
    expect_right(z, mask);
    std::vector<float> opposed = z;
    for (const float x : z) opposed.push_back(-x);
    opposed.push_back(0x1p-149F);
    expect_right(opposed);
  }
}

TEST(MeanLogitsFold, TiesAndTheirSides) {
  const float one_up = 0x1.000002p0F;
  expect_right({1.0F, one_up});           // halfway: to even
  expect_right({one_up, 0x1.000004p0F});  // halfway: up
  expect_right({1.0F, one_up, 0x1p-149F, -0x1p-149F, 1.0F, one_up});
  expect_right({1.0F, one_up, 0x1p-149F, 0.0F, 1.0F, one_up, 1.0F, 1.0F});
  expect_right({0x1p-149F, 0.0F});
  expect_right({0x1p-149F, 0x1p-149F, 0x1p-149F, 0.0F});
  expect_right({0x1.fffffep127F, 0x1.fffffep127F, -0x1.fffffep127F});
  expect_right(std::vector<float>(1000, -0x1.fffffep127F));
  EXPECT_EQ(oracle::bits_of(folded({-0.0F, -0.0F}, {})), 0U);
}

TEST(MeanLogitsFold, SpecialRows) {
  expect_right({1.0F, kNan, kInfinity});
  expect_right({1.0F, kInfinity});
  expect_right({1.0F, -kInfinity});
  expect_right({kInfinity, -kInfinity});
  expect_right({kInfinity, -kInfinity, 3.0F}, {0, 1, 1});
  expect_right({kNan, 3.0F}, {0, 1});
  expect_right({1.0F, 2.0F}, {0, 0});
}

TEST(MeanLogitsFold, MergesInAnyOrder) {
  const std::vector<float> z = {1e30F, -1e-30F, 3.0F, -1e30F, 0x1p-149F, 7.0F};
  const float wanted = oracle::Row(z).mean_logits();
  for (std::size_t cut = 0; cut <= z.size(); ++cut) {
    detail::fold::MeanLogits parts[2];
    parts[0].absorb(z.data(), nullptr, static_cast<std::int64_t>(cut));
    parts[1].absorb(z.data() + cut, nullptr, static_cast<std::int64_t>(z.size() - cut));
    for (const bool swapped : {false, true}) {
      detail::fold::MeanLogits all = parts[swapped ? 1 : 0];
      all.merge(parts[swapped ? 0 : 1]);
      EXPECT_EQ(oracle::bits_of(all.finish()), oracle::bits_of(wanted)) << cut;
    }
  }
}

}  // namespace
}  // namespace isologit::testing_score
