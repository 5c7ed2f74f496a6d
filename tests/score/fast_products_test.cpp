// Fast kernels that multiply bf16 as such: the order they state (CONTRACT.md 6), written here a second time element by
// element; and, of all fast kernels, elements at the ends of the range and weights that lie in other ways.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "isologit/kernels.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/kernel_logits.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::DotData;
using oracle::DotFamily;

std::vector<std::string> fast_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable && kernel.arithmetic == Arithmetic::fast) names.push_back(kernel.name);
  }
  return names;
}

// Rows of bf16.
struct Rows {
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t stride;
  std::vector<std::uint8_t> bytes;

  Rows(std::int64_t count, std::int64_t size, std::int64_t row_stride = 0)
      : rows(count),
        cols(size),
        stride(row_stride == 0 ? size : row_stride),
        bytes(static_cast<std::size_t>(2 * rows * stride), 0xFF) {}  // NaN between rows
  void set(std::int64_t row, std::int64_t k, float x) {
    oracle::encode(DType::bf16, bytes.data(), static_cast<std::size_t>(row * stride + k), x);
  }
  float at(std::int64_t row, std::int64_t k) const {
    return static_cast<float>(oracle::decode(DType::bf16, bytes.data(), static_cast<std::size_t>(row * stride + k)));
  }
  MatrixView view() const { return {bytes.data(), DType::bf16, rows, cols, stride}; }
};

// Normal bf16 numbers with exponents from low to high.
Rows random_rows(std::int64_t rows, std::int64_t cols, int low, int high, oracle::Random& random,
                 std::int64_t stride = 0) {
  Rows made(rows, cols, stride);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = 0; k < cols; ++k) {
      const auto fraction = static_cast<float>(128 + random.below(128));
      made.set(
          r, k,
          static_cast<float>(random.sign()) * std::ldexp(fraction, static_cast<int>(random.between(low, high)) - 7));
    }
  }
  return made;
}

// What the instructions make of a result.
float flush(float x) { return std::fabs(x) < 0x1p-126F ? std::copysign(0.0F, x) : x; }
float multiply_add(float a, float b, float c) { return flush(std::fma(a, b, c)); }

using Elements = std::vector<float>;
float element(const Elements& row, std::size_t k) { return k < row.size() ? row[k] : 0.0F; }

// Chunks of 1024 elements; sixteen lanes of pairs, the odd element first; lanes i and i + 8, then neighbours twice,
// then the two halves.
float in_order_of_avx512_bf16(const Elements& h, const Elements& w) {
  float total = 0;
  for (std::size_t first = 0; first < h.size(); first += 1024) {
    std::array<float, 16> lanes{};
    for (std::size_t k = first; k < std::min(first + 1024, h.size()); k += 2) {
      float& lane = lanes[k / 2 % 16];
      lane = multiply_add(element(h, k + 1), element(w, k + 1), lane);
      lane = multiply_add(h[k], w[k], lane);
    }
    std::array<float, 8> eight{};
    for (std::size_t i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
    total += ((eight[0] + eight[1]) + (eight[2] + eight[3])) + ((eight[4] + eight[5]) + (eight[6] + eight[7]));
  }
  return total;
}

// Chunks of 32 steps of 32 elements; in a step chains of the even and of the odd elements, from 0.
float in_order_of_amx(const Elements& h, const Elements& w) {
  float total = 0;
  for (std::size_t first = 0; first < h.size(); first += 1024) {
    float chunk = 0;
    for (std::size_t step = first; step < std::min(first + 1024, h.size()); step += 32) {
      float even = 0;
      float odd = 0;
      for (std::size_t k = step; k < step + 32; k += 2) {
        even = multiply_add(element(h, k), element(w, k), even);
        odd = multiply_add(element(h, k + 1), element(w, k + 1), odd);
      }
      chunk = flush(chunk + flush(even + odd));
    }
    total += chunk;
  }
  return total;
}

class FastOrder : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::vector<std::string> names = fast_kernels();
    if (std::find(names.begin(), names.end(), GetParam()) == names.end()) GTEST_SKIP() << "does not run here";
  }
  void expect_order(const Rows& hidden, const Rows& weight) const {
    const auto found = kernel_logits(GetParam(), hidden.view(), weight.view(), {}).values;
    const auto in_order = GetParam() == "amx_fast" ? in_order_of_amx : in_order_of_avx512_bf16;
    const auto row_of = [](const Rows& rows, std::int64_t r) {
      Elements elements;
      for (std::int64_t k = 0; k < rows.cols; ++k) elements.push_back(rows.at(r, k));
      return elements;
    };
    for (std::int64_t n = 0; n < hidden.rows; ++n) {
      const Elements h = row_of(hidden, n);
      for (std::int64_t v = 0; v < weight.rows; ++v) {
        const float expected = in_order(h, row_of(weight, v)) + 0.0F;
        const float z = found[static_cast<std::size_t>(n * weight.rows + v)];
        ASSERT_EQ(oracle::bits_of(z), oracle::bits_of(expected))
            << z << "; expected " << expected << ": row " << n << " of " << hidden.rows << ", id " << v << ", cols "
            << hidden.cols;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Kernel, FastOrder, testing::Values("avx512_bf16_fast", "amx_fast"),
                         [](const auto& tested) { return tested.param; });

TEST_P(FastOrder, IsTheOneStated) {
  oracle::Random random(1);
  for (const std::int64_t cols : {1, 2, 3, 31, 32, 33, 64, 511, 1023, 1024, 1025, 2050}) {
    for (const std::int64_t rows : {1, 2, 5, 6, 7, 13, 64, 65}) {
      expect_order(random_rows(rows, cols, -3, 3, random), random_rows(5, cols, -3, 3, random));
    }
  }
  expect_order(random_rows(33, 545, -3, 3, random), random_rows(70, 545, -3, 3, random));
}

TEST_P(FastOrder, IsTheOneStatedWhereSumsAreSubnormal) {
  oracle::Random random(2);
  for (const std::int64_t cols : {1, 2, 40, 545}) {
    expect_order(random_rows(7, cols, -66, -60, random), random_rows(9, cols, -66, -60, random));
  }
}

class FastEnds : public testing::TestWithParam<std::string> {
 protected:
  std::vector<float> logits(const Rows& hidden, const Rows& weight) const {
    return kernel_logits(GetParam(), hidden.view(), weight.view(), {}).values;
  }
};

INSTANTIATE_TEST_SUITE_P(Kernel, FastEnds, testing::ValuesIn(fast_kernels()),
                         [](const auto& tested) { return tested.param; });

// Each row of `hidden` is h but for x at `at`, and so `weight`.
Rows rows_with(std::int64_t cols, float usual, std::int64_t at, std::span<const float> special) {
  Rows rows(static_cast<std::int64_t>(special.size()), cols);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::int64_t k = 0; k < cols; ++k) rows.set(r, k, k == at ? special[static_cast<std::size_t>(r)] : usual);
  }
  return rows;
}

TEST_P(FastEnds, SpecialElementsAreThoseOfIeee) {
  const float inf = HUGE_VALF;
  const std::vector<float> elements = {1, 0, inf, -inf, std::nanf(""), 0x1p-130F, -0x1p-133F};
  for (const std::int64_t cols : {2, 31, 600}) {
    for (const std::int64_t at : {std::int64_t{0}, cols / 2, cols - 1}) {
      const std::vector<float> found = logits(rows_with(cols, 1, at, elements), rows_with(cols, 0.5F, at, elements));
      for (std::size_t n = 0; n < elements.size(); ++n) {
        for (std::size_t v = 0; v < elements.size(); ++v) {
          const float product = elements[n] * elements[v];
          const float z = found[n * elements.size() + v];
          if (std::isnan(product)) {
            EXPECT_EQ(oracle::bits_of(z), oracle::bits_of(oracle::quiet_nan())) << elements[n] << " * " << elements[v];
          } else {
            EXPECT_EQ(z, static_cast<float>(cols - 1) * 0.5F + product) << elements[n] << " * " << elements[v];
          }
        }
      }
    }
  }
  // Infinities of both signs in one sum.
  const std::vector<float> both =
      logits(rows_with(40, inf, 7, std::vector{-inf}), rows_with(40, 1, 0, std::vector{1.0F}));
  EXPECT_EQ(oracle::bits_of(both[0]), oracle::bits_of(oracle::quiet_nan()));
}

TEST_P(FastEnds, SubnormalElementsCountAtFullValue) {
  for (const std::int64_t cols : {3, 64, 513}) {
    for (const bool in_weight : {false, true}) {
      const Rows small = rows_with(cols, 0x1p-130F, 0, std::vector{0x1p-130F, 0x1p-120F});
      const Rows large = rows_with(cols, 0x1p100F, 0, std::vector{0x1p100F, -0x1p100F, 0.0F});
      const std::vector<float> found = in_weight ? logits(large, small) : logits(small, large);
      for (std::size_t i = 0; i < 2; ++i) {
        for (std::size_t j = 0; j < 3; ++j) {
          const double first = (i == 0 ? 0x1p-30 : 0x1p-20) * (j == 0 ? 1 : j == 1 ? -1 : 0);
          EXPECT_EQ(found[in_weight ? j * 2 + i : i * 3 + j],
                    static_cast<float>(static_cast<double>(cols - 1) * 0x1p-30 + first))
              << cols;
        }
      }
    }
  }
}

// The products are below f32's normal range: what is lost is at most 2^-126 of each.
TEST_P(FastEnds, ProductsBelowTheNormalRangeLoseLittle) {
  for (const std::int64_t cols : {2, 100, 1030}) {
    for (const int exponent : {-62, -63, -64, -70}) {
      const float x = std::ldexp(1.5F, exponent);
      const Rows rows = rows_with(cols, x, 0, std::vector{x, -x});
      for (const float z : logits(rows, rows)) {
        EXPECT_LE(std::fabs(z), static_cast<double>(cols) * std::ldexp(2.25, 2 * exponent) * (1 + 0x1p-15));
      }
      const double exact = static_cast<double>(cols) * std::ldexp(2.25, 2 * exponent);
      EXPECT_LE(std::fabs(static_cast<double>(logits(rows, rows)[0]) - exact),
                exact * 0x1p-15 + static_cast<double>(cols) * 0x1p-126);
    }
  }
}

TEST_P(FastEnds, LongSumsKeepTheirBound) {
  for (const DotFamily family : {DotFamily::normal, DotFamily::outliers, DotFamily::cancellation}) {
    for (const std::int64_t cols : {4099, 8192}) {
      const DotData data = make_dot({2, 9, cols, DType::bf16, DType::bf16, std::nullopt}, family, 11);
      const auto found = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), {}).values;
      for (std::int64_t n = 0; n < 2; ++n) {
        for (std::int64_t v = 0; v < 9; ++v) {
          double magnitude = 0;
          for (std::int64_t k = 0; k < cols; ++k) magnitude += std::fabs(data.hidden_row(n)[k] * data.weight_row(v)[k]);
          const auto size = static_cast<double>(cols);
          const auto exact = static_cast<double>(
              oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(cols), 0));
          const auto z = static_cast<double>(found[static_cast<std::size_t>(n * 9 + v)]);
          EXPECT_LE(std::fabs(z - exact),
                    0x1p-23 * (80 + size / 512) * magnitude + size * 0x1p-126 + std::fabs(exact) * 0x1p-24)
              << name_of(family) << ", cols " << cols << ", row " << n << ", id " << v;
        }
      }
    }
  }
}

// Rows at odd distances, and a shard's rows, whose tiles begin elsewhere.
TEST_P(FastEnds, WhereTheWeightLiesChangesNoBit) {
  for (const std::int64_t cols : {1, 6, 33, 520}) {
    oracle::Random random(static_cast<std::uint64_t>(cols));
    const Rows hidden = random_rows(30, cols, -5, 5, random);
    Rows close = random_rows(140, cols, -5, 5, random);
    close.set(77, 0, 0x1p-128F);
    const std::vector<float> expected = logits(hidden, close);
    for (const std::int64_t between : {1, 2, 3}) {
      Rows apart(140, cols, cols + between);
      for (std::int64_t v = 0; v < 140; ++v) {
        for (std::int64_t k = 0; k < cols; ++k) apart.set(v, k, close.at(v, k));
      }
      EXPECT_EQ(logits(hidden, apart), expected) << cols << " + " << between;
    }
    for (const std::int64_t first : {1, 63, 70}) {
      MatrixView shard = close.view();
      shard.data = close.bytes.data() + 2 * first * cols;
      shard.rows -= first;
      const std::vector<float> found = kernel_logits(GetParam(), hidden.view(), shard, {}).values;
      for (std::int64_t n = 0; n < 30; ++n) {
        for (std::int64_t v = first; v < 140; ++v) {
          ASSERT_EQ(found[static_cast<std::size_t>(n * shard.rows + v - first)],
                    expected[static_cast<std::size_t>(n * 140 + v)])
              << "shard from " << first << ", cols " << cols << ", row " << n << ", id " << v;
        }
      }
    }
  }
}

}  // namespace
}  // namespace isologit::testing_score
