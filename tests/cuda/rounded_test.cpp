// Results in bf16 and f16: rounded once, never by way of f32.
#include <gtest/gtest.h>

#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

constexpr DType kNarrow[] = {DType::bf16, DType::f16};

double value_of(DType type, std::uint32_t bits) {
  const auto narrow = static_cast<std::uint16_t>(bits);
  return oracle::decode(type, &narrow, 0);
}

float rounded_by_oracle(double x, DType type) {
  const double one = 1.0;
  return oracle::logit(&x, &one, 1, 0.0, type);
}

// Every number of the type and every midpoint, and what lies just beside them: further than f32 can tell.
TEST(CudaRounded, OnceFromEveryBoundary) {
  for (const DType type : kNarrow) {
    for (std::uint32_t bits = 0; bits < 0x7FFFU; ++bits) {
      const double low = value_of(type, bits);
      const double high = value_of(type, bits + 1);
      if (!std::isfinite(low)) continue;
      const double step = low - value_of(type, bits == 0 ? 1 : bits - 1);
      const double middle = std::isfinite(high) ? 0.5 * (low + high) : low + 0.5 * std::fabs(step);
      for (const double at : {low, middle}) {
        for (const double x : {at, std::nextafter(at, HUGE_VAL), std::nextafter(at, -HUGE_VAL)}) {
          for (const double signed_x : {x, -x}) {
            const float want = rounded_by_oracle(signed_x, type);
            const float got = round_once(signed_x, static_cast<int>(type));
            ASSERT_EQ(oracle::bits_of(got), oracle::bits_of(want)) << signed_x;
            const std::uint16_t stored = narrow_bits(got, static_cast<int>(type));
            ASSERT_EQ(value_of(type, stored), static_cast<double>(want)) << signed_x;
          }
        }
      }
    }
  }
}

TEST(CudaRounded, TheOneNanAndTheMarkAreTold) {
  for (const double nan : {std::nan(""), static_cast<double>(bit_cast<float>(0x7FFFFFFFU))}) {
    EXPECT_EQ(narrow_bits(round_once(nan, kBf16), kBf16), 0x7FC0);
    EXPECT_EQ(narrow_bits(round_once(nan, kF16), kF16), 0x7E00);
  }
  for (const int type : {kBf16, kF16, kF32}) {
    std::uint32_t memory = 0;
    store_result(&memory, type, 0, open_mark());
    EXPECT_TRUE(is_open_result(&memory, type, 0));
    store_result(&memory, type, 0, quiet_nan());
    EXPECT_FALSE(is_open_result(&memory, type, 0));
  }
}

void expect_right(const DotData& data, DType type, const std::string& what, const Layout& layout = {}) {
  HostLauncher launcher;
  EXPECT_EQ(count_different(logits_by(launcher, data, layout, type), logits_of_oracle(data, type)), 0)
      << describe(data.shape) << " to " << static_cast<int>(type) << ' ' << what;
}

TEST(CudaRounded, EveryFamilyAndKernel) {
  for (const DType type : kNarrow) {
    for (const auto family : oracle::dot_families) {
      for (const std::int64_t rows : {3, 12, 24, 34}) {
        const DotData data = oracle::make_dot({rows, 29, 200, type, type, DType::f32}, family, 41);
        expect_right(data, type, std::string(oracle::name_of(family)), {3, 1});
        expect_right(data, type, std::string(oracle::name_of(family)));
      }
      const DotShape others = {4, 30, 96, DType::f32, DType::bf16, {}};
      expect_right(oracle::make_dot(others, family, 42), type, std::string(oracle::name_of(family)));
    }
  }
}

// Sums on a midpoint of two numbers of the type, and beside it by `tail` of their size.
DotData near_midpoints(DType type, double tail) {
  constexpr std::int64_t kRows = 4, kVocab = 64, kDepth = 40;
  DotData data = oracle::make_dot({kRows, kVocab, kDepth, DType::f32, DType::bf16, {}}, DotFamily::zero_rows, 43);
  const double half = type == DType::bf16 ? 0x1p-8 : 0x1p-11;
  const auto set = [](std::vector<std::uint8_t>& raw, std::vector<double>& values, DType dtype, std::int64_t i,
                      float x) {
    oracle::encode(dtype, raw.data(), static_cast<std::size_t>(i), x);
    values[static_cast<std::size_t>(i)] = static_cast<double>(x);
  };
  for (std::int64_t n = 0; n < kRows; ++n) {
    for (std::int64_t k = 0; k < kDepth; ++k) {
      const double h = k == 0 ? 1.0 : k == 17 ? half : k == 33 ? tail * (n % 2 == 0 ? 1.0 : -1.0) : 0.0;
      set(data.hidden, data.hidden_values, DType::f32, n * kDepth + k, static_cast<float>(h));
    }
  }
  for (std::int64_t v = 0; v < kVocab; ++v) {
    for (std::int64_t k = 0; k < kDepth; ++k) {
      // A number of few bits, an odd one of the last place now and then; the half's weight is its power of two.
      const double w = k == 0 ? 1.0 + 0x1p-7 * static_cast<double>(v) : k == 17 || k == 33 ? 1.0 : 0.0;
      set(data.weight, data.weight_values, DType::bf16, v * kDepth + k, static_cast<float>(v % 3 == 0 ? -w : w));
    }
  }
  return data;
}

TEST(CudaRounded, BesideAMidpoint) {
  for (const DType type : kNarrow) {
    for (const double tail : {0.0, 0x1p-30, 0x1p-70, 0x1p-140}) {
      const DotData data = near_midpoints(type, tail);
      expect_right(data, type, "tail " + std::to_string(tail));
      if (tail == 0.0) continue;
      // By way of f32 the tail would be lost, so that these are sums that tell.
      std::int64_t wrong = 0;
      const auto right = logits_of_oracle(data, type);
      const auto wide = logits_of_oracle(data);
      for (std::size_t i = 0; i < right.size(); ++i) {
        wrong += right[i] != rounded_by_oracle(static_cast<double>(wide[i]), type) ? 1 : 0;
      }
      EXPECT_GT(wrong, 20) << static_cast<int>(type);
    }
  }
}

// More rows than are made ready at once: the later ones are stored where they belong.
TEST(CudaRounded, MoreRowsThanAreMadeReadyAtOnce) {
  expect_right(oracle::make_dot({kRowsAtOnce + 3, 5, 40}, DotFamily::normal, 44), DType::bf16, "normal");
}

}  // namespace
}  // namespace isologit::detail::cuda
