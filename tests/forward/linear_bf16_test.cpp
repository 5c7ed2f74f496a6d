// Linears whose operands and results are all bf16, which some kernels compute by a rough first pass: every exact kernel
// against the oracle, at the sizes that cross the borders of steps, chunks, groups and tiles, and where the first pass
// is wrong by most of its bound or the real number lies next to a midpoint.
#include <bit>
#include <cmath>

#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "forward/tensors.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {
namespace {

using detail::exact::bf16_to_f32;
using detail::exact::narrow;

// Operands of bf16 with a bias of f32.
struct Operands {
  std::int64_t rows, features, cols;
  std::vector<double> x, weight, bias;

  double x_at(std::int64_t n, std::int64_t k) const { return x[static_cast<std::size_t>(n * cols + k)]; }
  double weight_at(std::int64_t v, std::int64_t k) const { return weight[static_cast<std::size_t>(v * cols + k)]; }
  double sum(std::int64_t n, std::int64_t v) const {
    double sum = 0;
    for (std::int64_t k = 0; k < cols; ++k) sum += x_at(n, k) * weight_at(v, k);
    return sum;
  }
};

std::vector<std::uint8_t> encoded(const std::vector<double>& values, DType dtype) {
  std::vector<std::uint8_t> bytes(values.size() * dtype_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    detail::exact::store_element(bytes.data() + i * dtype_size(dtype), dtype, values[i]);
  }
  return bytes;
}

// y with a gap of one element after each row.
std::vector<std::uint8_t> linear(const Operands& of, const std::string& kernel, int threads) {
  const auto x = encoded(of.x, DType::bf16);
  const auto weight = encoded(of.weight, DType::bf16);
  const auto bias = encoded(of.bias, DType::f32);
  std::vector<std::uint8_t> y(static_cast<std::size_t>(of.rows * (of.features + 1) * 2), 0xA5);
  forward::LinearRequest request;
  request.x = {x.data(), DType::bf16, of.rows, of.cols, of.cols};
  request.weight = {weight.data(), DType::bf16, of.features, of.cols, of.cols};
  if (!bias.empty()) request.bias = {bias.data(), DType::f32, of.features};
  request.y = y.data();
  request.y_row_stride = of.features + 1;
  const auto report = forward::linear(request, options_of(threads, kernel));
  EXPECT_TRUE(report) << report.error().message;
  return y;
}

testing::AssertionResult right_on_every_kernel(const Operands& of) {
  std::vector<std::uint8_t> right(static_cast<std::size_t>(of.rows * (of.features + 1) * 2), 0xA5);
  for (std::int64_t n = 0; n < of.rows; ++n) {
    for (std::int64_t v = 0; v < of.features; ++v) {
      const double bias = of.bias.empty() ? 0 : of.bias[static_cast<std::size_t>(v)];
      const float y =
          oracle::logit(&of.x[static_cast<std::size_t>(n * of.cols)], &of.weight[static_cast<std::size_t>(v * of.cols)],
                        static_cast<std::size_t>(of.cols), bias, DType::bf16);
      detail::exact::store_element(&right[static_cast<std::size_t>(n * (of.features + 1) + v) * 2], DType::bf16,
                                   static_cast<double>(std::isnan(y) ? detail::exact::quiet_nan() : y));
    }
  }
  for (const std::string& kernel : exact_kernels()) {
    for (const int threads : {1, 3}) {
      const auto found = linear(of, kernel, threads);
      for (std::size_t i = 0; i < right.size(); i += 2) {
        if (found[i] == right[i] && found[i + 1] == right[i + 1]) continue;
        const auto at = static_cast<std::int64_t>(i / 2);
        return testing::AssertionFailure()
               << kernel << ", row " << at / (of.features + 1) << ", feature " << at % (of.features + 1) << ": "
               << std::hexfloat << detail::exact::load_element(found.data(), DType::bf16, at) << "; expected "
               << detail::exact::load_element(right.data(), DType::bf16, at);
      }
    }
  }
  return testing::AssertionSuccess();
}

Operands drawn(std::int64_t rows, std::int64_t features, std::int64_t cols, oracle::DotFamily family,
               std::uint64_t seed) {
  const auto data = oracle::make_dot({rows, features, cols, DType::bf16, DType::bf16, DType::f32}, family, seed);
  return {rows, features, cols, data.hidden_values, data.weight_values, data.bias_values};
}

TEST(LinearBf16, EveryFamilyAndSize) {
  constexpr std::int64_t kShapes[][3] = {{33, 70, 300}, {1, 66, 257}, {16, 5, 31}, {5, 64, 64}, {49, 33, 9}, {3, 2, 2}};
  std::uint64_t seed = 0;
  for (const oracle::DotFamily family : oracle::dot_families) {
    for (const auto& [rows, features, cols] : kShapes) {
      if (cols < 5 && (family == oracle::DotFamily::near_tie || family == oracle::DotFamily::overflow_limit)) continue;
      Operands of = drawn(rows, features, cols, family, ++seed);
      if (seed % 2 == 0) of.bias.clear();
      ASSERT_TRUE(right_on_every_kernel(of))
          << oracle::name_of(family) << ' ' << rows << 'x' << features << 'x' << cols;
    }
  }
}

TEST(LinearBf16, MoreRowsThanABlock) {
  ASSERT_TRUE(right_on_every_kernel(drawn(1030, 3, 40, oracle::DotFamily::normal, 7)));
  ASSERT_TRUE(right_on_every_kernel(drawn(270, 65, 33, oracle::DotFamily::cancellation, 8)));
}

// The midpoint of two bf16 numbers that is next to x, of odd significand.
double midpoint_near(double x) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return static_cast<double>(std::bit_cast<float>((bits & 0xFFFF0000U) | 0x8000U));
}

// A bias takes the sum of one row to a midpoint, as near as f32 allows or exactly, or one number of f32 past it.
TEST(LinearBf16, NextToMidpoints) {
  oracle::Random random(5);
  for (const bool short_numbers : {false, true}) {
    Operands of{18, 70, 96, {}, {}, {}};
    const auto number = [&] {
      return short_numbers ? static_cast<double>(static_cast<int>(random.below(33)) - 16) / 8
                           : draw(random, Family::normal, DType::bf16);
    };
    for (std::int64_t i = 0; i < of.rows * of.cols; ++i) of.x.push_back(number());
    for (std::int64_t i = 0; i < of.features * of.cols; ++i) of.weight.push_back(number());
    for (std::int64_t v = 0; v < of.features; ++v) {
      const double sum = of.sum(v % of.rows, v);
      const auto bias = static_cast<float>(midpoint_near(sum + 3) - sum);
      const float past = v % 3 == 0 ? bias : std::nextafter(bias, v % 3 == 1 ? HUGE_VALF : -HUGE_VALF);
      of.bias.push_back(static_cast<double>(past));
    }
    ASSERT_TRUE(right_on_every_kernel(of)) << (short_numbers ? "exact ties" : "near ties");
  }
}

// Where products are large: the first pair of a step of 32, whose two chains AMX adds up apart; the first element of
// either half of a step, which is a chain of VDPBF16PS; the last pair of a chunk's first and last of these chains,
// beside which the sums of the others are lost; all odd elements, for the passes after the first.
enum class Large { pair_of_step, halves_of_step, ends_of_chunk, odd };

bool is_large(Large where, std::int64_t k) {
  switch (where) {
    case Large::pair_of_step: return k % 32 < 2;
    case Large::halves_of_step: return k % 16 == 0;
    case Large::ends_of_chunk: return k % 128 == 14 || k % 128 == 126;
    case Large::odd: break;
  }
  return k % 2 == 1;
}

// So that large products take one another back.
bool is_negative(Large where, std::int64_t k) {
  switch (where) {
    case Large::pair_of_step: return k % 2 == 1;
    case Large::halves_of_step: return k / 16 % 2 == 1;
    case Large::ends_of_chunk: return k % 128 == 126;
    case Large::odd: break;
  }
  return k / 32 % 2 == 1;
}

// In chains of f32 each small product is lost beside a large one, which another takes back: the sum is wrong by up to
// nine tenths of the bound (a sixth, of the second pass, half, of the third). Biases put midpoints between the real sum
// and the computed one.
TEST(LinearBf16, SumsThatLoseWhatTheBoundAllows) {
  constexpr std::int64_t kRows = 17;
  constexpr std::int64_t kFeatures = 64;
  for (const std::int64_t cols : {32, 64, 256, 1024}) {
    for (const Large where : {Large::pair_of_step, Large::halves_of_step, Large::ends_of_chunk, Large::odd}) {
      const std::int64_t fewest = where == Large::ends_of_chunk ? 128 : where == Large::odd ? 64 : 32;
      if (cols < fewest) continue;                                             // nothing takes the large products back
      const double share_of_one = where == Large::ends_of_chunk ? 0x1p-4 : 1;  // sixteen are lost together
      std::vector<double> x;
      std::vector<double> weight;
      double small = 0;
      for (std::int64_t k = 0; k < cols; ++k) {
        const bool large = is_large(where, k);
        x.push_back(large ? 0x1p6 : share_of_one * 0x1p-5);
        weight.push_back(large ? (is_negative(where, k) ? -0x1.02p7 : 0x1.02p7) : 0x1.FCp-7);
        if (!large) small += share_of_one * 0x1.FCp-12;  // less than half of the last place of the large ones
      }
      const double midpoint = std::ldexp(1 + 0x1p-8, std::ilogb(small) + 11);  // no other is near
      Operands of{kRows, kFeatures, cols, {}, {}, {}};
      for (std::int64_t n = 0; n < kRows; ++n) of.x.insert(of.x.end(), x.begin(), x.end());
      for (std::int64_t v = 0; v < kFeatures; ++v) {
        of.weight.insert(of.weight.end(), weight.begin(), weight.end());
        const double share = (static_cast<double>(v) + 0.5) / 32;
        of.bias.push_back(narrow(midpoint - small * share, DType::f32));
      }
      ASSERT_TRUE(right_on_every_kernel(of)) << cols << " columns, large products " << static_cast<int>(where);
    }
  }
}

// Rows of which one is zeros, huge, tiny or not finite, beside usual ones.
TEST(LinearBf16, UnusualRows) {
  oracle::Random random(9);
  const double unusual[] = {0, -0.0, 0x1p-133, 0x1p-126, -0x1p-70, 0x1p-37, 0x1p40, 0x1.FEp127, HUGE_VAL, NAN};
  Operands of{20, 40, 70, {}, {}, {}};
  for (std::int64_t n = 0; n < of.rows; ++n) {
    for (std::int64_t k = 0; k < of.cols; ++k) {
      const double value = draw(random, Family::normal, DType::bf16);
      const bool whole = n < 10;
      of.x.push_back(n % 2 == 1 || (!whole && k != 13) ? value : unusual[n / 2]);
    }
  }
  for (std::int64_t v = 0; v < of.features; ++v) {
    for (std::int64_t k = 0; k < of.cols; ++k) {
      const double value = draw(random, Family::normal, DType::bf16);
      of.weight.push_back(v % 4 == 1 || (v >= 20 && k != 14) ? value : unusual[v / 4]);
    }
    of.bias.push_back(v % 3 == 0 ? 0 : v % 3 == 1 ? 0x1p-130 : narrow(static_cast<double>(v) / 7, DType::f32));
  }
  ASSERT_TRUE(right_on_every_kernel(of));
  of.bias.clear();
  ASSERT_TRUE(right_on_every_kernel(of));
}

}  // namespace
}  // namespace isologit::test
