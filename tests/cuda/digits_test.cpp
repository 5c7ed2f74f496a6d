// Logits from products of digits: which elements are whole numbers, what lies outside the windows, and rows that are
// left to other kernels.
#include <gtest/gtest.h>

#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

// Runs what makes digits and their products, and neither f64 products nor settling.
struct DigitsAlone {
  template <int WARPS>
  using Block = HostBlock<WARPS, PlainProducts>;
  HostLauncher<PlainProducts> launcher;

  template <class Kernel>
  void launch(int x, int y, const typename Kernel::Args& args) {
    if constexpr (!std::is_same_v<Kernel, Staged<Block<4>, Bf16, false, true>> &&
                  !std::is_same_v<Kernel, Settle<Block<8>, Bf16, false, true>>) {
      launcher.template launch<Kernel>(x, y, args);
    }
  }
};

struct Left {
  std::int64_t open = 0, wrong = 0;
};
// Of the logits by digits alone.
Left left_by_digits(const DotData& data, DType type = DType::f32) {
  DigitsAlone launcher;
  const auto got = logits_by(launcher, data, {}, type);
  const auto want = logits_of_oracle(data, type);
  Left left;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (is_open(got[i])) {
      ++left.open;
    } else if (oracle::bits_of(got[i]) != oracle::bits_of(want[i])) {
      ++left.wrong;
    }
  }
  return left;
}

void expect_right(const DotData& data, const std::string& what) {
  HostLauncher<PlainProducts> launcher;
  EXPECT_EQ(count_different(logits_by(launcher, data), logits_of_oracle(data)), 0) << what;
  EXPECT_EQ(left_by_digits(data).wrong, 0) << what;
}

void set(std::vector<std::uint8_t>& bytes, std::vector<double>& values, std::int64_t at, std::uint16_t bits) {
  std::memcpy(&bytes[static_cast<std::size_t>(2 * at)], &bits, 2);
  values[static_cast<std::size_t>(at)] = oracle::decode(DType::bf16, &bits, 0);
}
void set_weight(DotData& data, std::int64_t v, std::int64_t k, std::uint16_t bits) {
  set(data.weight, data.weight_values, v * data.shape.cols + k, bits);
}
void set_hidden(DotData& data, std::int64_t n, std::int64_t k, std::uint16_t bits) {
  set(data.hidden, data.hidden_values, n * data.shape.cols + k, bits);
}

constexpr std::uint16_t kOne = 0x3F80, kInfinity = 0x7F80, kNan = 0x7FC1;
std::uint16_t power(int exponent) { return static_cast<std::uint16_t>((exponent + 127) << 7); }

TEST(CudaDigits, EveryFamily) {
  for (const auto family : oracle::dot_families) {
    for (const std::int64_t rows : {34, 70}) {
      for (const auto bias : {std::optional<DType>(), std::optional<DType>(DType::f32)}) {
        const auto data = oracle::make_dot({rows, 80, 200, DType::bf16, DType::bf16, bias}, family, 1);
        expect_right(data, std::string(oracle::name_of(family)) + " rows " + std::to_string(rows));
      }
    }
  }
}

TEST(CudaDigits, EveryDepthAndVocabulary) {
  for (const std::int64_t depth : {8, 24, 64, 72, 136, 1000}) {
    for (const std::int64_t vocab : {64, 65, 127, 193}) {
      expect_right(oracle::make_dot({34, vocab, depth}, DotFamily::outliers, 2), "depth " + std::to_string(depth));
    }
  }
}

TEST(CudaDigits, DecideNearlyAll) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    const auto left = left_by_digits(oracle::make_dot({70, 192, 1024}, DotFamily::normal, 3), type);
    EXPECT_EQ(left.wrong, 0);
    EXPECT_EQ(left.open, 0);
  }
}

// Elements above and below a weight row's window: the guess sees the first of every 40 or so alone.
TEST(CudaDigits, ElementsOutsideOfWeightRows) {
  auto data = oracle::make_dot({34, 64, 2048}, DotFamily::normal, 4);
  for (std::int64_t v = 0; v < 64; ++v) {
    for (std::int64_t i = 0; i < v % 25; ++i) set_weight(data, v, 61 * i + 43, power(static_cast<int>(i) * 4 - 60));
  }
  expect_right(data, "outside");
  EXPECT_LT(left_by_digits(data).open, 34);  // of no row all; some bounds do not suffice
}

TEST(CudaDigits, ElementsOutsideOfHiddenRows) {
  auto data = oracle::make_dot({40, 64, 2048}, DotFamily::normal, 5);
  for (std::int64_t n = 0; n < 40; ++n) {
    for (std::int64_t i = 0; i < n % 31; ++i) set_hidden(data, n, 61 * i, power(static_cast<int>(i) * 2 - 32));
  }
  expect_right(data, "outside");
  EXPECT_EQ(left_by_digits(data).open, 0);
}

// Both of one product outside, so that neither rest may count twice.
TEST(CudaDigits, BothOfAProductOutside) {
  auto data = oracle::make_dot({33, 64, 512}, DotFamily::normal, 6);
  for (std::int64_t k : {3, 200, 510}) {
    for (std::int64_t n = 0; n < 33; ++n) set_hidden(data, n, k, static_cast<std::uint16_t>(power(-19) | 0x7F));
    for (std::int64_t v = 0; v < 64; ++v) set_weight(data, v, k, static_cast<std::uint16_t>(power(-18) | 0x7F));
  }
  expect_right(data, "both");
}

TEST(CudaDigits, WildRowsAreLeftToOtherKernels) {
  auto data = oracle::make_dot({40, 130, 512}, DotFamily::normal, 7);
  for (std::int64_t k = 0; k < 512; ++k) {
    const auto bits = power(static_cast<int>(k % 120) - 60);
    set_weight(data, 5, k, bits);
    set_hidden(data, 7, k, bits);
  }
  expect_right(data, "wild");
  EXPECT_EQ(left_by_digits(data).open, 40 + 130 - 1);
}

TEST(CudaDigits, RowsOfZerosAndOfNumbersThatAreNone) {
  auto data = oracle::make_dot({34, 130, 512}, DotFamily::normal, 8);
  for (std::int64_t k = 0; k < 512; ++k) {
    set_weight(data, 2, k, 0);
    set_weight(data, 3, k, k == 300 ? kOne : 0);  // where the guess does not look
    set_hidden(data, 3, k, 0x8000);
    set_weight(data, 4, k, 1);  // the least subnormal
    set_hidden(data, 4, k, 1);
  }
  set_weight(data, 6, 100, kInfinity);
  set_weight(data, 7, 511, kNan);
  set_hidden(data, 8, 0, kNan);
  set_hidden(data, 9, 77, static_cast<std::uint16_t>(kInfinity | 0x8000));
  expect_right(data, "special");
}

}  // namespace
}  // namespace isologit::detail::cuda
