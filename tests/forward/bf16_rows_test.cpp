// The loops that compute rows of bf16 in f32 (kernels/bf16_rows_impl.hpp): on so many numbers that some lie within the
// errors of f32 of a boundary, and on numbers searched to lie there, every kernel gives the reference's bits, which
// other tests hold to the oracle.
#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "forward/tensors.hpp"

namespace isologit::test {
namespace {

using oracle::Random;

constexpr std::int64_t kTokens = 40, kHeads = 16, kDim = 128;

Tensor normal(std::uint64_t seed) {
  Random random(seed);
  return Tensor::random(random, Family::normal, DType::bf16, kTokens, kHeads, kDim);
}

// The distance of x from the nearest midpoint of bf16, in units of the last place of f32.
double places_from_midpoint(double x) {
  const double last = std::ldexp(1, std::ilogb(x) - 23);
  return std::fabs(std::remainder(std::fabs(x) / last - 0x8000, 0x10000));
}

using Call = std::function<Result<forward::Report>(const forward::TensorOutput&, const forward::Options&)>;

void expect_the_references(const Call& call, std::int64_t tokens = kTokens, std::int64_t heads = kHeads,
                           std::int64_t dim = kDim) {
  Tensor right(DType::bf16, tokens, heads, dim);
  ASSERT_TRUE(call(right.output(), options_of(2, "reference")));
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(DType::bf16, tokens, heads, dim);
    const auto report = call(y.output(), options_of(2, kernel));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(y == right) << kernel;
  }
}

TEST(Bf16Rows, Norms) {
  const Tensor x = normal(1);
  Random random(2);
  for (const bool plus : {false, true}) {
    const Vector weight = random_vector(random, Family::normal, plus ? DType::f32 : DType::bf16, kDim);
    expect_the_references([&](const forward::TensorOutput& y, const forward::Options& options) {
      return forward::rms_norm({x.view(), weight.view(), 1e-6F, plus, y}, options);
    });
  }
}

// Weights of f32 by which the results are midpoints, give or take some units of the last place of f32.
TEST(Bf16Rows, NormsBesideMidpoints) {
  constexpr std::int64_t kSize = 4096;
  Random random(6);
  const Tensor x = Tensor::random(random, Family::normal, DType::bf16, 1, 1, kSize);
  double squares = 0;
  for (const double e : x.row(0, 0)) squares += e * e;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(kSize));
  for (const bool plus : {false, true}) {
    std::vector<float> weight;
    for (std::int64_t d = 0; d < kSize; ++d) {
      const auto middle = static_cast<double>(2 * random.between(128, 255) + 1) * 0x1p-9;
      const double w = middle * (1 + static_cast<double>(random.between(-6, 6)) * 0x1p-24) / (factor * x.at(0, 0, d));
      weight.push_back(static_cast<float>(plus ? w - 1 : w));
    }
    const VectorView view{weight.data(), DType::f32, kSize};
    expect_the_references(
        [&](const forward::TensorOutput& y, const forward::Options& options) {
          return forward::rms_norm({x.view(), view, 0, plus, y}, options);
        },
        1, 1, kSize);
  }
}

// Of all g from 2^-4 to 8 and u from 1 to 2 those whose results lie beside midpoints.
TEST(Bf16Rows, GatesBesideMidpoints) {
  std::vector<std::pair<double, double>> found;
  for (std::int64_t i = 0; i < 7 * 128 * 2; ++i) {
    const double g =
        (i % 2 == 0 ? 1 : -1) * std::ldexp(1 + static_cast<double>(i / 2 % 128) / 128, static_cast<int>(i / 256) - 4);
    for (int m = 0; m < 128; ++m) {
      const double u = 1 + m / 128.0;
      if (places_from_midpoint(g * u / (1 + std::exp(-g))) < 6) found.emplace_back(g, u);
    }
  }
  ASSERT_GT(found.size(), 30U);
  const auto count = static_cast<std::int64_t>(found.size());
  Tensor g(DType::bf16, 1, 1, count), u(DType::bf16, 1, 1, count);
  for (std::int64_t d = 0; d < count; ++d) {
    g.set(0, 0, d, found[static_cast<std::size_t>(d)].first);
    u.set(0, 0, d, found[static_cast<std::size_t>(d)].second);
  }
  expect_the_references(
      [&](const forward::TensorOutput& y, const forward::Options& options) {
        forward::GateRequest request;
        request.gate = g.view();
        request.up = u.view();
        request.y = y;
        return forward::gate(request, options);
      },
      1, 1, count);
}

// Every alignment of two numbers, ties among their sums.
TEST(Bf16Rows, Sums) {
  Tensor x(DType::bf16, 64, 1, 128), a(DType::bf16, 64, 1, 128);
  Random random(7);
  for (std::int64_t t = 0; t < 64; ++t) {
    for (std::int64_t d = 0; d < 128; ++d) {
      const auto some = [&] { return random.sign() * static_cast<double>(random.between(128, 255)); };
      x.set(t, 0, d, random.below(4) == 0 ? 128 * random.sign() : some());
      a.set(t, 0, d, std::ldexp(random.below(4) == 0 ? 128 * random.sign() : some(), static_cast<int>(t) - 32));
    }
  }
  expect_the_references(
      [&](const forward::TensorOutput& y, const forward::Options& options) {
        return forward::residual({x.view(), a.view(), {}, 1, y}, options);
      },
      64, 1, 128);
}

TEST(Bf16Rows, Gates) {
  const Tensor g = normal(3), u = normal(4);
  for (const bool has_up : {false, true}) {
    expect_the_references([&](const forward::TensorOutput& y, const forward::Options& options) {
      forward::GateRequest request;
      request.gate = g.view();
      if (has_up) request.up = u.view();
      request.y = y;
      return forward::gate(request, options);
    });
  }
}

TEST(Bf16Rows, Rotations) {
  const Tensor x = normal(5);
  std::vector<std::int64_t> positions;
  for (std::int64_t t = 0; t < kTokens; ++t) positions.push_back(t * t * t);
  const auto frequencies = forward::rotary_frequencies(10000, kDim);
  for (const float factor : {1.0F, 1.2079F}) {
    expect_the_references([&](const forward::TensorOutput& y, const forward::Options& options) {
      return forward::rotary({x.view(), positions, *frequencies, forward::RotaryLayout::halves, factor, y}, options);
    });
  }
}

// All numbers of bf16, whose exponentials are from 0 to infinity.
TEST(Bf16Rows, GatesOfAllNumbers) {
  Tensor g(DType::bf16, 512, 1, 128);
  for (std::int64_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint32_t>(i) << 16;
    g.set(i / 128, 0, i % 128, static_cast<double>(std::bit_cast<float>(bits)));
  }
  std::vector<double> right;
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(DType::bf16, 512, 1, 128);
    forward::GateRequest request;
    request.gate = g.view();
    request.y = y.output();
    ASSERT_TRUE(forward::gate(request, options_of(2, kernel)));
    for (std::int64_t i = 0; i < 65536; ++i) {
      const double x = g.at(i / 128, 0, i % 128);
      if (kernel == exact_kernels().front()) {
        right.push_back(oracle::gate(oracle::GateShape::silu, {}, x, std::nullopt, format_of(DType::bf16)));
      }
      ASSERT_TRUE(same(y.at(i / 128, 0, i % 128), right[static_cast<std::size_t>(i)])) << kernel << ' ' << x;
    }
  }
}

}  // namespace
}  // namespace isologit::test
