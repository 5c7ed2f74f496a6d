// Logits from products of digits: which elements are whole numbers, what lies outside the windows, and rows that are
// left to other kernels.
#include <gtest/gtest.h>

#include "cuda/wgmma_self_test.cuh"
#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

// Has a launcher run what makes digits and their products, and neither f64 products nor settling.
// leading_everywhere: whatever rows say of themselves.
void run_digits_alone(HostLauncher& launcher, bool leading_everywhere) {
  using Four = HostLauncher::Block<4>;
  using Eight = HostLauncher::Block<8>;
  launcher.before = [=, prepared = DigitPreparation{}](const std::type_info& kernel, const void* args) mutable {
    for (int row = 0; row < prepared.rows; ++row) prepared.facts[row].leading = 1;
    prepared.rows = 0;
    if (leading_everywhere && kernel == typeid(PrepareDigits<Eight>)) {
      prepared = *static_cast<const DigitPreparation*>(args);
    }
    return kernel != typeid(Staged<Four, Bf16, false, true>) && kernel != typeid(Settle<Eight, Bf16, false, true>);
  };
}

struct Left {
  std::int64_t open = 0, wrong = 0;
};
// Of the logits by digits alone; `want` are those of the oracle.
Left left_by_digits(const DotData& data, const std::vector<float>& want, DType type, bool wgmma,
                    bool leading_everywhere = false) {
  HostLauncher launcher;
  run_digits_alone(launcher, leading_everywhere);
  const auto got = logits_by(launcher, data, {}, type, false, wgmma);
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

// How many digits leave open.
struct Open {
  std::int64_t f32, bf16;
};
// In f32, by all nine products, and in bf16, by the leading ones where they are enough: all are right, and by wgmma as
// many are open.
Open expect_right(const DotData& data, const std::string& what) {
  std::int64_t open[2];
  for (const DType type : {DType::f32, DType::bf16}) {
    const auto want = logits_of_oracle(data, type);
    std::int64_t& left_open = open[type == DType::f32 ? 0 : 1];
    for (const bool wgmma : {false, true}) {
      HostLauncher launcher;
      EXPECT_EQ(count_different(logits_by(launcher, data, {}, type, false, wgmma), want), 0) << what << ' ' << wgmma;
      const Left left = left_by_digits(data, want, type, wgmma);
      EXPECT_EQ(left.wrong, 0) << what << ' ' << wgmma;
      if (wgmma) {
        EXPECT_EQ(left.open, left_open) << what;
      }
      left_open = left.open;
    }
  }
  return {open[0], open[1]};
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
    for (const auto bias : {std::optional<DType>(), std::optional<DType>(DType::f32)}) {
      const std::int64_t rows = bias ? 34 : 70;
      const auto data = oracle::make_dot({rows, 80, 200, DType::bf16, DType::bf16, bias}, family, 1);
      expect_right(data, std::string(oracle::name_of(family)) + " rows " + std::to_string(rows));
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
  const auto data = oracle::make_dot({70, 192, 1024}, DotFamily::normal, 3);
  for (const bool wgmma : {false, true}) {
    const auto left = left_by_digits(data, logits_of_oracle(data, DType::f16), DType::f16, wgmma);
    EXPECT_EQ(left.wrong, 0);
    EXPECT_EQ(left.open, 0);
  }
  const Open open = expect_right(data, "normal");
  EXPECT_EQ(open.f32, 0);
  EXPECT_GT(open.bf16, 0);  // the leading products made them
  EXPECT_LT(open.bf16, 70 * 192 / 128);
}

// Elements above and below a weight row's window: the guess sees the first of every 40 or so alone.
TEST(CudaDigits, ElementsOutsideOfWeightRows) {
  auto data = oracle::make_dot({34, 64, 2048}, DotFamily::normal, 4);
  for (std::int64_t v = 0; v < 64; ++v) {
    for (std::int64_t i = 0; i < v % 25; ++i) set_weight(data, v, 61 * i + 43, power(static_cast<int>(i) * 4 - 60));
  }
  EXPECT_LT(expect_right(data, "outside").f32, 34);  // of no row all; some bounds do not suffice
}

TEST(CudaDigits, ElementsOutsideOfHiddenRows) {
  auto data = oracle::make_dot({40, 64, 2048}, DotFamily::normal, 5);
  for (std::int64_t n = 0; n < 40; ++n) {
    for (std::int64_t i = 0; i < n % 31; ++i) set_hidden(data, n, 61 * i, power(static_cast<int>(i) * 2 - 32));
  }
  EXPECT_EQ(expect_right(data, "outside").f32, 0);
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
  EXPECT_EQ(expect_right(data, "wild").f32, 40 + 130 - 1);
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

// The greatest element of a window may not be divided, of either sign.
TEST(CudaDigits, GreatestElements) {
  auto data = oracle::make_dot({40, 64, 512}, DotFamily::normal, 9);
  for (std::int64_t n = 0; n < 40; ++n) {
    for (std::int64_t k = 0; k < (n % 2 == 0 ? 5 : 512); ++k) {
      set_hidden(data, n, k, static_cast<std::uint16_t>(power(n % 4 < 2 ? 3 : 0) | 0x7F | (k + n) % 3 << 15));
    }
  }
  expect_right(data, "greatest");
}

// Every second element of a row is 2^-7 of what it was: more of lowest digits than the leading products may leave out.
void make_heavy(DotData& data, std::int64_t n) {
  for (std::int64_t k = 0; k < data.shape.cols; k += 2) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, &data.hidden[static_cast<std::size_t>(2 * (n * data.shape.cols + k))], 2);
    if ((bits & 0x7F80) > 7 << 7) set_hidden(data, n, k, static_cast<std::uint16_t>(bits - (7 << 7)));
  }
}

TEST(CudaDigits, HeavyTailsTakeAllProducts) {
  auto data = oracle::make_dot({70, 130, 1024}, DotFamily::normal, 10);
  for (std::int64_t n = 64; n < 70; ++n) make_heavy(data, n);
  EXPECT_GT(expect_right(data, "blocks of both kinds").bf16, 0);
  for (std::int64_t n = 0; n < 64; ++n) make_heavy(data, n);
  EXPECT_EQ(expect_right(data, "heavy").bf16, 0);
}

// A few great elements are put outside where that makes the rest fill its window.
TEST(CudaDigits, FewGreatElementsAreSpared) {
  auto data = oracle::make_dot({34, 64, 2048}, DotFamily::normal, 11);
  for (std::int64_t n = 0; n < 34; ++n) {
    for (std::int64_t i = 0; i < 6; ++i) set_hidden(data, n, 300 * i + n, power(5));
  }
  expect_right(data, "great");
  const Workspace space = workspace_of(34, 2048, kBf16);
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(space.bytes + 15) / 16);
  HostLauncher launcher;
  for (const bool to_bf16 : {false, true}) {
    const LaidOut hidden(data.hidden_view(), {}), weight(data.weight_view(), {});
    const Product p =
        prepared(launcher, operands_of(data, hidden, weight), 0, 34, workspace.get(), space, false, to_bf16);
    for (int n = 0; n < 34; ++n) {
      const DigitFacts& facts = p.hidden_digits.facts[n];
      EXPECT_EQ(facts.leading, to_bf16 ? 1 : 0)
          << n << ": " << facts.window << ' ' << facts.outside << ' ' << facts.whole.low_size;
      EXPECT_LE(facts.outside, to_bf16 ? 10 : 4) << n;
    }
  }
}

// What the leading products leave out at its greatest, beside a product that makes the result some hundred times as
// large: a bound that is a tenth too small takes some results for certain that are the next number.
TEST(CudaDigits, TheLeastThatTheBoundMayBe) {
  constexpr std::int64_t kRows = 40, kVocab = 128, kDepth = 256;
  const double low = -0x1p-15;               // a hidden element of -128 units
  const double middle = 254 * 0x1p-15;       // of 254 2^7 units, the greatest of two digits
  const double of_weight = 254 * 0x1p-20;    // of 508 units, 252 of them in the lowest digit
  const double middle_of_weight = -0x1p-13;  // of -256 units: the middle digit is the greatest, of 0 the least
  for (const int kind : {0, 1, 2}) {
    auto data = oracle::make_dot({kRows, kVocab, kDepth}, DotFamily::normal, 12);
    const auto bits_of = [](double x) {
      return static_cast<std::uint16_t>(bit_cast<std::uint32_t>(static_cast<float>(x)) >> 16);
    };
    const auto original = data;
    for (std::int64_t k = 0; k < kDepth; ++k) {
      const bool of_weights = kind == 0 || (kind == 2 && k % 2 == 0);
      for (std::int64_t n = 0; n < kRows; ++n) {
        double h = of_weights ? (kind == 0 && n % 2 == 0 ? -middle : middle) : low;
        if (k < 5) h = k < 2 ? 1.0 : 0.0;  // the window
        if (k == 5) h = 0.5 + std::fmod(std::fabs(original.hidden_row(n)[0]), 0.5);
        set_hidden(data, n, k, bits_of(h));
      }
      for (std::int64_t v = 0; v < kVocab; ++v) {
        double w = of_weights ? of_weight : v % 2 == 0 ? 0.0 : middle_of_weight;
        if (k < 5) w = k == 3 || k == 4 ? 1.0 : 0.0;
        if (k == 5) {
          w = std::ldexp(0.5 + std::fmod(std::fabs(original.weight_row(v)[0]), 0.5), static_cast<int>(v % 4) - 3);
        }
        set_weight(data, v, k, bits_of(w));
      }
    }
    const auto left = left_by_digits(data, logits_of_oracle(data, DType::bf16), DType::bf16, false, true);
    EXPECT_EQ(left.wrong, 0) << kind;
    EXPECT_GT(left.open, kRows * kVocab / 10) << kind;
    EXPECT_LT(left.open, kRows * kVocab * 2 / 3) << kind;
  }
}

TEST(CudaDigits, WgmmaOfWholeNumbersPassesTheSelfTest) {
  using Kernel = WgmmaSelfTest<HostLauncher::Block<4>>;
  HostLauncher launcher;
  std::uint32_t broken = 0;
  launcher.launch<Kernel>(Kernel::kKinds, 1, SelfTesting{&broken});
  EXPECT_EQ(broken, 0U);
}

}  // namespace
}  // namespace isologit::detail::cuda
