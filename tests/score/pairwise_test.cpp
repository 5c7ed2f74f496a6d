// Every kernel of exact arithmetic against the reference, at the sizes that cross the borders of groups, chunks,
// panels, blocks and tiles. (logits_test.cpp holds the kernels, the reference among them, against the oracle.)
#include <cstring>

#include "oracle/cases.hpp"
#include "score/kernel_logits.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

class Pairwise : public KernelTest {
 protected:
  void SetUp() override {
    if (is_reference()) GTEST_SKIP() << "it is what the others are held against";
  }

  testing::AssertionResult equals_the_reference(const DotData& data) const {
    const auto found = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view());
    const auto expected = kernel_logits("reference", data.hidden_view(), data.weight_view(), data.bias_view());
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      if (same_logit(found.values[i], expected.values[i])) continue;
      return testing::AssertionFailure() << "logit " << i << ": " << std::hexfloat << found.values[i] << "; expected "
                                         << expected.values[i];
    }
    return testing::AssertionSuccess();
  }
};

TEST_P(Pairwise, EveryNumberOfRows) {
  for (std::int64_t rows = 1; rows <= 70; ++rows) {
    const DotData data = make_dot({rows, 11, 65, DType::bf16, DType::bf16, DType::f32}, DotFamily::near_tie, 3);
    ASSERT_TRUE(equals_the_reference(data)) << rows << " rows";
  }
}

TEST_P(Pairwise, EveryHiddenSize) {
  std::uint64_t seed = 0;
  for (const std::int64_t cols : {1, 31, 32, 33, 63, 64, 1000, 4096, 8192, 16384}) {
    if (instrumented && cols > 1000) continue;
    for (const DotFamily family : oracle::dot_families) {
      if (cols < 5 && (family == DotFamily::near_tie || family == DotFamily::overflow_limit)) continue;
      ++seed;
      const auto dtype = static_cast<DType>(seed % 3);
      const DotShape shape{static_cast<std::int64_t>(1 + seed % 5), 9,    cols, dtype,
                           static_cast<DType>(seed / 3 % 3),        dtype};
      ASSERT_TRUE(equals_the_reference(make_dot(shape, family, seed))) << name_of(family) << " cols " << cols;
    }
  }
}

// Rows, as long and as many as the sums of integers want them, that end anywhere in their groups, parts and panels.
TEST_P(Pairwise, LongRowsToEveryEnd) {
  std::uint64_t seed = 0;
  for (const std::int64_t cols : {768, 769, 783, 1016, 1024, 1025, 1033, 2061}) {
    for (const DotFamily family : {DotFamily::normal, DotFamily::outliers, DotFamily::near_tie}) {
      ++seed;
      const DotShape shape{static_cast<std::int64_t>(10 + seed % 9),
                           static_cast<std::int64_t>(1 + seed * 5 % 23),
                           cols,
                           seed % 2 == 0 ? DType::bf16 : DType::f16,
                           DType::bf16,
                           DType::f32};
      ASSERT_TRUE(equals_the_reference(make_dot(shape, family, seed))) << name_of(family) << " cols " << cols;
    }
  }
}

// Enough rows for every way through a kernel.
TEST_P(Pairwise, EveryFamilyOfManyRows) {
  for (const DotFamily family : oracle::dot_families) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const DotShape shape{33, 70, instrumented ? 100 : 1100, dtype, DType::bf16, DType::f32};
      ASSERT_TRUE(equals_the_reference(make_dot(shape, family, 5))) << name_of(family) << " " << dtype_name(dtype);
    }
  }
}

// Ten elements a row that tower over the others, in more channels than a kernel may keep of the weight, many of them
// those of the other operand's; then with an infinity and a NaN among them.
TEST_P(Pairwise, GreatElementsInManyChannels) {
  const std::int64_t cols = instrumented ? 300 : 1100;
  DotData data = make_dot({40, 70, cols, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 6);
  const auto change = [&](std::vector<std::uint8_t>& bytes, std::int64_t row, std::int64_t i, auto&& to) {
    std::uint8_t* at = bytes.data() + (row * cols + (row * 10 + i) * 7 % cols) * 2;
    std::uint16_t bits;
    std::memcpy(&bits, at, sizeof bits);
    bits = to(bits);
    std::memcpy(at, &bits, sizeof bits);
  };
  for (std::int64_t row = 0; row < 70; ++row) {
    for (std::int64_t i = 0; i < 10; ++i) {
      const auto greater = [](std::uint16_t bits) { return static_cast<std::uint16_t>(bits + (22 << 7)); };
      if (row < 40) change(data.hidden, row, i, greater);
      change(data.weight, row, i, greater);
    }
  }
  ASSERT_TRUE(equals_the_reference(data));
  const auto infinite = [](std::uint16_t) { return std::uint16_t{0x7F80}; };
  const auto no_number = [](std::uint16_t) { return std::uint16_t{0x7FC0}; };
  change(data.hidden, 5, 3, infinite);
  change(data.weight, 5, 4, infinite);
  change(data.weight, 9, 0, infinite);
  change(data.hidden, 7, 2, no_number);
  change(data.weight, 11, 6, no_number);
  ASSERT_TRUE(equals_the_reference(data));
}

// Bytes at random are numbers of every kind, subnormal, infinite and NaN among them.
TEST_P(Pairwise, RandomBytes) {
  oracle::Random random(11);
  for (int i = 0; i < (instrumented ? 20 : 200); ++i) {
    const DotShape shape{random.between(1, 20),
                         random.between(1, 20),
                         random.between(1, 300),
                         static_cast<DType>(random.below(3)),
                         static_cast<DType>(random.below(3)),
                         DType::bf16};
    DotData data = make_dot(shape, DotFamily::normal, 1);
    for (auto* bytes : {&data.hidden, &data.weight, &data.bias}) {
      for (std::uint8_t& byte : *bytes) byte = static_cast<std::uint8_t>(random.next());
    }
    ASSERT_TRUE(equals_the_reference(data)) << "try " << i;
  }
}

ISOLOGIT_FOR_EACH_KERNEL(Pairwise);

// A line of the registry is all it takes: the tests above were made for every kernel that runs here.
TEST(Enrolment, EveryKernelThatRunsHereIsTested) {
  std::string tested;
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int s = 0; s < all.total_test_suite_count(); ++s) {
    for (int t = 0; t < all.GetTestSuite(s)->total_test_count(); ++t) {
      const char* kernel = all.GetTestSuite(s)->GetTestInfo(t)->value_param();
      if (kernel != nullptr) tested += kernel;
    }
  }
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable) {
      EXPECT_NE(tested.find('"' + kernel.name + '"'), std::string::npos) << kernel.name;
    }
  }
}

}  // namespace
}  // namespace isologit::testing_score
