// The logits of CONTRACT.md 1, before any transform: each kernel against the oracle, on every family of operands.
#include <array>
#include <cstring>
#include <string>

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/kernel_logits.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

constexpr std::array dtypes = {DType::bf16, DType::f16, DType::f32};
constexpr std::array<std::int64_t, 11> hidden_sizes = {1, 2, 31, 32, 33, 63, 64, 255, 256, 257, 1000};

std::string describe(const DotShape& shape, DotFamily family) {
  return std::string(oracle::name_of(family)) + " rows " + std::to_string(shape.rows) + " vocab " +
         std::to_string(shape.vocab) + " cols " + std::to_string(shape.cols) + " " +
         std::string(dtype_name(shape.hidden)) + " x " + std::string(dtype_name(shape.weight)) + " bias " +
         (shape.bias ? std::string(dtype_name(*shape.bias)) : "none");
}

std::vector<float> oracle_logits(const DotData& data) {
  std::vector<float> logits;
  for (std::int64_t n = 0; n < data.shape.rows; ++n) {
    for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
      logits.push_back(oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(data.shape.cols),
                                     data.bias_of(v)));
    }
  }
  return logits;
}

testing::AssertionResult all_same(const std::vector<float>& found, const std::vector<float>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (same_logit(found[i], expected[i])) continue;
    return testing::AssertionFailure() << "logit " << i << ": " << std::hexfloat << found[i] << "; expected "
                                       << expected[i];
  }
  return testing::AssertionSuccess();
}

// The same rows elsewhere: at an odd address, `stride` elements apart, backwards when it is negative.
struct Moved {
  std::vector<std::uint8_t> bytes;
  MatrixView view;
};
Moved moved(const MatrixView& from, std::int64_t stride) {
  const auto size = static_cast<std::int64_t>(dtype_size(from.dtype));
  const std::int64_t reach = (from.rows - 1) * (stride < 0 ? -stride : stride) + from.cols;
  Moved result{std::vector<std::uint8_t>(static_cast<std::size_t>(reach * size + 1), 0xFF), from};
  std::uint8_t* first = result.bytes.data() + 1 + (stride < 0 ? -(from.rows - 1) * stride * size : 0);
  for (std::int64_t r = 0; r < from.rows; ++r) {
    std::memcpy(first + r * stride * size, static_cast<const std::uint8_t*>(from.data) + r * from.row_stride * size,
                static_cast<std::size_t>(from.cols * size));
  }
  result.view.data = first;
  result.view.row_stride = stride;
  return result;
}

class Logits : public KernelTest {};

// Tie families need five columns.
bool has_family(DotFamily family, std::int64_t cols) {
  return cols >= 5 || (family != DotFamily::near_tie && family != DotFamily::overflow_limit);
}

TEST_P(Logits, AreTheOraclesForEveryFamilyTypeAndSize) {
  constexpr std::array<std::optional<DType>, 4> biases = {std::nullopt, DType::f32, DType::bf16, DType::f16};
  std::uint64_t seed = 0;
  for (const DotFamily family : oracle::dot_families) {
    for (const DType hidden : dtypes) {
      for (const DType weight : dtypes) {
        for (const std::int64_t cols : hidden_sizes) {
          ++seed;
          if (!has_family(family, cols) || (instrumented && cols > 300)) continue;
          const auto rows = static_cast<std::int64_t>(1 + seed % 7);
          // Below, at and above the numbers of weight rows that kernels take at a time.
          const std::int64_t vocab = cols > 300 ? 9 : static_cast<std::int64_t>(1 + (seed * 29) % 73);
          const DotShape shape{rows, vocab, cols, hidden, weight, biases[seed % biases.size()]};
          const DotData data = make_dot(shape, family, seed);
          const KernelLogits logits =
              kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view());
          ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << describe(shape, family);
        }
      }
    }
  }
}

TEST_P(Logits, DoNotDependOnStrideAlignmentBlockOrTile) {
  for (const DotFamily family : {DotFamily::normal, DotFamily::near_tie, DotFamily::specials}) {
    for (const DType dtype : dtypes) {
      const DotShape shape{13, 70, 33, dtype, dtype, dtype};
      const DotData data = make_dot(shape, family, 5);
      const std::vector<float> expected = oracle_logits(data);
      const std::vector<std::uint8_t> bias = [&] {
        std::vector<std::uint8_t> bytes(1, 0xFF);
        bytes.insert(bytes.end(), data.bias.begin(), data.bias.end());
        return bytes;
      }();
      const VectorView bias_view{bias.data() + 1, dtype, shape.vocab};
      for (const std::int64_t stride : {33, 34, 41, -33, -37}) {
        const Moved hidden = moved(data.hidden_view(), stride);
        const Moved weight = moved(data.weight_view(), -stride);
        for (const std::int64_t tile : {0, 1, 17}) {
          for (const std::int64_t block : {0, 1, 3}) {
            const KernelLogits logits = kernel_logits(GetParam(), hidden.view, weight.view, bias_view, block, tile);
            ASSERT_TRUE(all_same(logits.values, expected))
                << describe(shape, family) << " stride " << stride << " tile " << tile << " block " << block;
          }
        }
      }
    }
  }
}

TEST_P(Logits, OfRowsWithStrideZeroAreThoseOfTheOneRow) {
  const DotShape shape{1, 1, 65, DType::bf16, DType::f16, DType::f32};
  const DotData data = make_dot(shape, DotFamily::normal, 9);
  MatrixView hidden = data.hidden_view();
  MatrixView weight = data.weight_view();
  hidden.rows = 5;
  hidden.row_stride = 0;
  weight.rows = 20;
  weight.row_stride = 0;
  const KernelLogits logits = kernel_logits(GetParam(), hidden, weight, {});
  const float expected = oracle::logit(data.hidden_row(0), data.weight_row(0), 65);
  ASSERT_TRUE(all_same(logits.values, std::vector<float>(100, expected)));
}

TEST_P(Logits, OfManyRowsCrossBlocks) {
  const DotShape shape{is_reference() ? 70 : 130, 5, 40, DType::bf16, DType::bf16, std::nullopt};
  const DotData data = make_dot(shape, DotFamily::outliers, 4);
  const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
  ASSERT_TRUE(all_same(logits.values, oracle_logits(data)));
}

// Near ties are beyond f64: some logits must have been settled by exact accumulation, and these are right too.
TEST_P(Logits, NearTiesReachTheFallback) {
  if (is_reference()) GTEST_SKIP() << "the reference is the fallback";
  for (const DotFamily family : {DotFamily::near_tie, DotFamily::overflow_limit}) {
    const DotShape shape{14, 70, 257, DType::bf16, DType::bf16, std::nullopt};
    const DotData data = make_dot(shape, family, 3);
    const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
    ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << describe(shape, family);
    EXPECT_GT(logits.fallbacks, 0) << describe(shape, family);
    EXPECT_LE(logits.fallbacks, shape.rows * shape.vocab);
  }
}

// Sixteen rows of hidden, all the same, and the rows of the weight.
DotData of_values(DType dtype, const std::vector<float>& hidden, const std::vector<std::vector<float>>& weight) {
  const std::size_t cols = hidden.size();
  const DotShape shape{
      16, static_cast<std::int64_t>(weight.size()), static_cast<std::int64_t>(cols), dtype, dtype, std::nullopt};
  DotData data = make_dot(shape, DotFamily::constant, 1);
  for (std::size_t i = 0; i < data.hidden_values.size(); ++i) {
    oracle::encode(dtype, data.hidden.data(), i, hidden[i % cols]);
    data.hidden_values[i] = static_cast<double>(hidden[i % cols]);
  }
  for (std::size_t i = 0; i < data.weight_values.size(); ++i) {
    oracle::encode(dtype, data.weight.data(), i, weight[i / cols][i % cols]);
    data.weight_values[i] = static_cast<double>(weight[i / cols][i % cols]);
  }
  return data;
}

// Two doubles beside one another do not hold these sums: 2^-80 is lost beside 1 while 2^60 comes and goes.
TEST_P(Logits, SumsThatTwoDoublesDoNotHold) {
  std::vector<float> terms(40);
  terms[0] = 0x1p60F;
  terms[8] = 1;
  terms[16] = 0x1p-80F;
  terms[24] = -1;
  terms[32] = -0x1p60F;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const DotData data = of_values(dtype, std::vector<float>(40, 1), {terms, std::vector<float>(40, 1), terms});
    const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
    ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << dtype_name(dtype);
  }
}

// 1 + 2^-24, a midpoint, and beside it what lies far below the greatest elements of a row, of the other or of both.
TEST_P(Logits, MidpointsThatTheLeastElementsDecide) {
  const std::vector<float> hidden = {1, 0x1p-12F, 0x1p-20F, 0x1p-40F, 0x1p-40F};
  const std::vector<std::vector<float>> weight = {
      {1, 0x1p-12F, 0, 0, 0},          {1, 0x1p-12F, 0x1p-40F, 0, 0},           {1, 0x1p-12F, -0x1p-40F, 0, 0},
      {1, 0x1p-12F, 0, 0x1p-20F, 0},   {1, 0x1p-12F, 0, -0x1p-20F, 0},          {1, 0x1p-12F, -0x1.8p-60F, 0, 0x1p-40F},
      {-1, -0x1p-12F, 0x1p-40F, 0, 0}, {1, 0x1p-12F, 0, -0x1.8p-40F, 0x1p-40F},
  };
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const DotData data = of_values(dtype, hidden, weight);
    const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
    ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << dtype_name(dtype);
    if (!is_reference()) {
      EXPECT_GT(logits.fallbacks, 0);
    }
  }
}

// Sums of integers are never greater than where all elements are as great as the greatest, or `great` of each eight.
TEST_P(Logits, OfTheGreatestElements) {
  constexpr std::size_t kCols = 1100;
  std::vector<float> same(kCols, 0x1.FEp0F);
  std::vector<float> turns = same;
  for (std::size_t i = 0; i < kCols; i += 2) turns[i] = -turns[i];
  std::vector<float> negative(kCols, -0x1.FEp0F);
  for (const std::size_t great : {1U, 2U, 3U, 4U, 8U}) {
    std::vector<float> hidden(kCols, 0x1p-20F);
    for (std::size_t i = 0; i < kCols; ++i) {
      if (i % 8 < great) hidden[i] = 0x1.FEp0F;
    }
    const DotData data = of_values(DType::bf16, hidden, {same, turns, negative, hidden});
    const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
    ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << great << " of eight";
  }
}

// Beside the greatest elements many of 2^-15 of them, next to one another: integers of 16 bits do not hold those, and
// what is listed beside them adds up to more than others do.
TEST_P(Logits, OfManySmallElements) {
  constexpr std::size_t kCols = 2200;
  const std::vector<float> same(kCols, 0x1.FEp0F);
  const std::vector<float> negative(kCols, -0x1.FEp0F);
  for (const std::size_t small : {40U, 240U, 264U, 320U}) {
    for (const std::size_t first : {1U, 900U}) {
      std::vector<float> hidden(kCols);
      hidden[0] = 0x1.FEp0F;
      for (std::size_t i = 0; i < small; ++i) hidden[first + i] = 0x1.FEp-15F;
      const DotData data = of_values(DType::bf16, hidden, {same, negative, hidden});
      const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
      ASSERT_TRUE(all_same(logits.values, oracle_logits(data))) << small << " from " << first;
    }
  }
}

// One element towers over the others, and of 60 small ones each is less than half a unit in its last place, and lost
// when they are added to it in turn: the sum comes out above a midpoint, which the real one is below.
TEST_P(Logits, SumsThatLoseWhatDecides) {
  constexpr std::size_t kCols = 1100;
  std::vector<float> hidden(kCols);
  std::vector<float> weight(kCols, 1);
  const auto set = [&](std::size_t i, float h, float w) {
    hidden[i] = h;
    weight[i] = w;
  };
  set(0, 1, 0x1p30F);
  set(1, 1, 0x1p6F);
  set(2, 0x1p-3F, 0x1p-16F);
  for (std::size_t i = 3; i < 63; ++i) set(i, 0x1p-3F, -0x1.FCp-21F);
  const DotData data = of_values(DType::bf16, hidden, {weight, hidden, weight});
  const KernelLogits logits = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {});
  ASSERT_TRUE(all_same(logits.values, oracle_logits(data)));
}

TEST_P(Logits, NearTiesReachTheFallbackOfScore) {
  if (is_reference()) GTEST_SKIP() << "the reference is the fallback";
  const DotShape shape{3, 70, 64, DType::bf16, DType::bf16, std::nullopt};
  const DotData data = make_dot(shape, DotFamily::near_tie, 3);
  Head head;
  head.weight = data.weight_view();
  head.vocab_size = shape.vocab;
  const std::vector<std::int64_t> ids = {0, 69, 33};
  const Outputs outputs = score_all(head, data.hidden_view(), ids, {}, options());
  EXPECT_GT(outputs.report.logit_fallbacks, 0);
  const std::vector<float> logits = oracle_logits(data);
  for (std::int64_t n = 0; n < shape.rows; ++n) {
    const auto first = static_cast<std::size_t>(n * shape.vocab);
    EXPECT_TRUE(row_is_right(outputs, n, {&logits[first], static_cast<std::size_t>(shape.vocab)},
                             ids[static_cast<std::size_t>(n)]));
  }
}

ISOLOGIT_FOR_EACH_KERNEL(Logits);

}  // namespace
}  // namespace isologit::testing_score
