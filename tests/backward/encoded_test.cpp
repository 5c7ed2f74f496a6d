// Gradients of weights of f64 and f8: `exact` is the oracle's, `fast` within its bound, on every kernel.
#include "oracle/encoded.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "oracle/logit.hpp"
#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::int64_t kBlockRows = 7;
constexpr std::int64_t kBlockCols = 5;

struct Encoded {
  Problem problem;
  Encoding encoding;
  DType scale_dtype = DType::f32;
  F8Product product = F8Product::real;
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint8_t> scales;

  Head head() const {
    Head head = problem.head();
    head.weight.data = nullptr;
    head.weight.dtype = DType::f32;
    head.weight.row_stride = problem.cols();
    head.encoded = {encoding, bytes.data(), {}, product};
    const std::int64_t blocks = (problem.cols() + kBlockCols - 1) / kBlockCols;
    if (encoding != Encoding::f64) {
      head.encoded.scales = {
          {scales.data(), scale_dtype, (problem.vocab() + kBlockRows - 1) / kBlockRows, blocks, blocks},
          kBlockRows,
          kBlockCols,
          0};
    }
    return head;
  }

  std::vector<oracle::Number> numbers() const {
    std::vector<oracle::Number> numbers;
    const std::int64_t blocks = (problem.cols() + kBlockCols - 1) / kBlockCols;
    for (std::int64_t i = 0; i < problem.vocab() * problem.cols(); ++i) {
      if (encoding == Encoding::f64) {
        double x = 0;
        std::memcpy(&x, bytes.data() + 8 * i, sizeof x);
        numbers.push_back(oracle::number_of(x));
        continue;
      }
      const std::int64_t at = i / problem.cols() / kBlockRows * blocks + i % problem.cols() / kBlockCols;
      const double scale = oracle::decode(scale_dtype, scales.data(), static_cast<std::size_t>(at));
      numbers.push_back(oracle::f8_number(encoding, bytes[static_cast<std::size_t>(i)], scale, product));
    }
    return numbers;
  }

  void set(std::int64_t v, std::int64_t k, double x) {
    std::memcpy(bytes.data() + 8 * (v * problem.cols() + k), &x, sizeof x);
  }
};

Encoded make(Encoding encoding, std::uint64_t seed,
             const oracle::DotShape& shape = {5, 37, 11, DType::bf16, DType::f32, {}}) {
  Encoded made{make_problem(shape, DotFamily::normal, seed, 2), encoding, DType::f32, F8Product::real, {}, {}};
  oracle::Random random(seed + 1);
  for (std::int64_t i = 0; i < shape.vocab * shape.cols; ++i) {
    const double x = random.normal();
    const auto bits = static_cast<std::uint8_t>(random.below(0x78) + (random.below(2) == 0 ? 0x80 : 0));
    const auto* raw = reinterpret_cast<const std::uint8_t*>(&x);
    if (encoding == Encoding::f64) {
      made.bytes.insert(made.bytes.end(), raw, raw + sizeof x);
    } else {
      made.bytes.push_back(encoding == Encoding::f8_e5m2 && (bits & 0x7C) == 0x7C ? 0 : bits);
    }
  }
  return made;
}

void set_scales(Encoded& made, DType dtype, std::uint64_t seed) {
  made.scale_dtype = dtype;
  const std::int64_t blocks = (made.problem.cols() + kBlockCols - 1) / kBlockCols;
  const std::int64_t count = (made.problem.vocab() + kBlockRows - 1) / kBlockRows * blocks;
  made.scales.resize(static_cast<std::size_t>(count) * dtype_size(dtype));
  oracle::Random random(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    oracle::encode(dtype, made.scales.data(), static_cast<std::size_t>(i), static_cast<float>(random.normal()) / 100);
  }
}

// dz of the oracle, with logits of the encoded weight.
Expected expect(const Encoded& made) {
  Problem problem = made.problem;
  const std::vector<oracle::Number> numbers = made.numbers();
  problem.z0.clear();
  for (std::int64_t n = 0; n < problem.rows(); ++n) {
    const std::vector<double> h(problem.data.hidden_row(n), problem.data.hidden_row(n) + problem.cols());
    for (std::int64_t v = 0; v < problem.vocab(); ++v) {
      const auto begin = numbers.begin() + v * problem.cols();
      problem.z0.push_back(
          oracle::rounded(oracle::sum_of(h, {begin, begin + problem.cols()}, problem.data.bias_of(v)), DType::f32));
    }
  }
  Expected expected = expect(problem);
  const oracle::GradientSums sums{expected.dz, static_cast<std::size_t>(problem.rows()),
                                  static_cast<std::size_t>(problem.vocab()), expected.skipped};
  oracle::Buffer buffer;
  if (problem.accumulate || problem.output != DType::f32) {
    buffer = {std::vector<double>(static_cast<std::size_t>(problem.rows() * problem.cols()), 0.0), problem.output};
  }
  if (problem.accumulate) buffer.values.assign(problem.old_dhidden.begin(), problem.old_dhidden.end());
  expected.gradients.dhidden = oracle::dhidden(sums, numbers, static_cast<std::size_t>(problem.cols()), buffer);
  return expected;
}

// dweight where the weight is f64.
Gradients run(const Encoded& made, const BackwardOptions& options) {
  const Problem& problem = made.problem;
  const auto bytes_of = [&](std::int64_t count, const std::vector<float>& old) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count) * dtype_size(problem.output), 0xA5);
    for (std::size_t i = 0; problem.accumulate && i < old.size(); ++i) {
      oracle::encode(problem.output, bytes.data(), i, old[i]);
    }
    return bytes;
  };
  const auto floats_of = [&](const std::vector<std::uint8_t>& bytes) {
    const auto values = oracle::decode_all(problem.output, bytes.data(), bytes.size() / dtype_size(problem.output));
    return std::vector<float>(values.begin(), values.end());
  };
  std::vector<std::uint8_t> dhidden = bytes_of(problem.rows() * problem.cols(), problem.old_dhidden);
  std::vector<std::uint8_t> dweight = bytes_of(problem.vocab() * problem.cols(), problem.old_dweight);
  BackwardRequest request = problem.request();
  request.dhidden = {dhidden.data(), problem.output, problem.cols(), problem.accumulate};
  if (made.encoding == Encoding::f64) {
    request.dweight = {dweight.data(), problem.output, problem.cols(), problem.accumulate};
  }
  const auto report = backward(made.head(), request, options);
  EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().message);
  Gradients found;
  found.dhidden = floats_of(dhidden);
  if (made.encoding == Encoding::f64) found.dweight = floats_of(dweight);
  if (report) found.report = *report;
  return found;
}

void expect_exact(const Encoded& made, const std::string& what) {
  const Expected expected = expect(made);
  for (const std::string& kernel : runnable_kernels()) {
    for (const int threads : {1, 3}) {
      BackwardOptions options;
      options.arithmetic = Arithmetic::exact;
      options.kernel = kernel;
      options.threads = threads;
      const Gradients found = run(made, options);
      expect_same_bits(found.dhidden, expected.gradients.dhidden, what + " dhidden " + kernel);
      if (made.encoding != Encoding::f64) continue;
      expect_same_bits(found.dweight, expected.gradients.dweight, what + " dweight " + kernel);
    }
  }
}

// A finite sum of dz w is within 2^-16 of the magnitudes' sum; what is not finite is as it is.
void expect_fast(const Encoded& made, const std::string& what) {
  const Expected expected = expect(made);
  const std::vector<oracle::Number> numbers = made.numbers();
  for (const std::string& kernel : runnable_kernels()) {
    BackwardOptions options;
    options.kernel = kernel;
    const Gradients found = run(made, options);
    for (std::int64_t n = 0; n < made.problem.rows(); ++n) {
      double allowed = 0;
      for (std::int64_t v = 0; v < made.problem.vocab(); ++v) {
        double squares = 0;
        for (std::int64_t k = 0; k < made.problem.cols(); ++k) {
          const double w = numbers[static_cast<std::size_t>(v * made.problem.cols() + k)].finite.get_d();
          squares += w * w;
        }
        const auto dz = static_cast<double>(expected.dz[static_cast<std::size_t>(n * made.problem.vocab() + v)]);
        allowed += std::fabs(dz) * std::sqrt(squares) * 0x1p-16;
      }
      for (std::int64_t k = 0; k < made.problem.cols(); ++k) {
        const auto at = static_cast<std::size_t>(n * made.problem.cols() + k);
        const auto right = static_cast<double>(expected.gradients.dhidden[at]);
        const auto got = static_cast<double>(found.dhidden[at]);
        if (!std::isfinite(right)) {
          EXPECT_TRUE(std::isnan(right) ? std::isnan(got) : right == got) << what << " " << kernel << " " << at;
        } else {
          EXPECT_LE(std::fabs(got - right), allowed + std::fabs(right) * 0x1p-23 + 0x1p-149)
              << what << " " << kernel << " " << at;
        }
      }
    }
  }
}

TEST(Encoded, F8ByEveryScaleAndProduct) {
  for (const Encoding encoding : {Encoding::f8_e4m3, Encoding::f8_e5m2}) {
    for (const DType scales : {DType::f32, DType::bf16}) {
      for (const F8Product product : {F8Product::real, F8Product::bf16}) {
        Encoded made = make(encoding, 7);
        set_scales(made, scales, 3);
        made.product = product;
        const std::string what = fmt::format("{} scales {} product {}", encoding_name(encoding), dtype_name(scales),
                                             static_cast<int>(product));
        expect_exact(made, what);
        expect_fast(made, what);
      }
    }
  }
}

TEST(Encoded, F64WithTransformsAndBuffers) {
  for (const DType output : {DType::f32, DType::bf16}) {
    Encoded made = make(Encoding::f64, 11);
    made.problem.transforms = {true, 3.0F, ScaleKind::divide, 1.3F};
    made.problem.temperatures = {0.7F};
    made.problem.output = output;
    expect_exact(made, "f64");
    if (output == DType::f32) expect_fast(made, "f64");
    made.problem.fill_old(5);
    expect_exact(made, "f64 into a buffer");
  }
}

TEST(Encoded, WiderThanAPanelAndLongerThanAChunk) {
  Encoded made = make(Encoding::f8_e4m3, 13, {3, 301, 131, DType::bf16, DType::f32, {}});
  set_scales(made, DType::f32, 4);
  expect_exact(made, "wide");
  expect_fast(made, "wide");
  expect_exact(make(Encoding::f64, 14, {3, 301, 131, DType::bf16, DType::f32, {}}), "wide f64");
}

// The upstream of logits is dz itself.
Encoded with_dz(Encoding encoding, std::uint64_t seed) {
  Encoded made = make(encoding, seed);
  Problem& problem = made.problem;
  problem.ids.clear();
  problem.d_logprobs.clear();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  oracle::Random random(seed);
  for (std::int64_t i = 0; i < problem.rows() * problem.vocab(); ++i) {
    problem.d_logits.push_back(static_cast<float>(random.normal()));
  }
  return made;
}

TEST(Encoded, NumbersThatNoSumOfFloatsIs) {
  // Magnitudes that f32 has not, and cancellation between them.
  const std::array<double, 6> odd = {0x1.23456789abcdfp300,  0x1p-300, 0x1p-1074,
                                     -0x1.23456789abcdfp300, 0x1p200,  0x1p-140};
  Encoded made = with_dz(Encoding::f64, 17);
  for (std::size_t i = 0; i < odd.size(); ++i)
    made.set(static_cast<std::int64_t>(3 * i), static_cast<std::int64_t>(i), odd[i]);
  made.set(30, 0, -odd[0]);
  for (std::int64_t n = 0; n < made.problem.rows(); ++n) {
    auto& g = made.problem.d_logits;
    g[static_cast<std::size_t>(n * made.problem.vocab() + 30)] = g[static_cast<std::size_t>(n * made.problem.vocab())];
  }
  expect_exact(made, "odd numbers");
  expect_fast(made, "odd numbers");
}

TEST(Encoded, WhatIsNotFinite) {
  Encoded made = with_dz(Encoding::f64, 19);
  Problem& problem = made.problem;
  problem.data.hidden_values.assign(problem.data.hidden_values.size(), 1.0);
  for (std::size_t i = 0; i < problem.data.hidden_values.size(); ++i) {
    oracle::encode(problem.data.shape.hidden, problem.data.hidden.data(), i, 1.0F);
  }
  made.set(4, 2, static_cast<double>(kInf));
  made.set(9, 3, 0);
  expect_exact(made, "an infinite weight");
  made.set(5, 2, -static_cast<double>(kInf));
  expect_exact(made, "infinities of both signs");
  made.set(6, 7, std::nan(""));
  expect_exact(made, "NaN, in a logit too");
}

TEST(Encoded, AnInfiniteUpstreamMeetsWholeNumbersNotTheirParts) {
  for (const Encoding encoding : {Encoding::f64, Encoding::f8_e4m3}) {
    Encoded made = with_dz(encoding, 23);
    if (encoding != Encoding::f64) set_scales(made, DType::f32, 9);
    if (encoding == Encoding::f64) made.set(3, 1, 0.5);  // one float, whose other parts are 0
    const std::size_t at = static_cast<std::size_t>(2 * made.problem.vocab() + 3);
    made.problem.d_logits[at] = 1;
    Expected expected = expect(made);
    made.problem.d_logits[at] = expected.dz[at] = kInf;
    const oracle::GradientSums sums{expected.dz, 5, 37, expected.skipped};
    for (const std::string& kernel : runnable_kernels()) {
      for (const Arithmetic arithmetic : {Arithmetic::exact, Arithmetic::fast}) {
        BackwardOptions options;
        options.arithmetic = arithmetic;
        options.kernel = kernel;
        const std::vector<float> right = oracle::dhidden(sums, made.numbers(), 11);
        const Gradients found = run(made, options);
        for (std::size_t k = 22; k < 33; ++k) {
          EXPECT_TRUE(std::isnan(right[k]) ? std::isnan(found.dhidden[k]) : right[k] == found.dhidden[k])
              << encoding_name(encoding) << " " << kernel << " " << k << ": " << found.dhidden[k] << ", " << right[k];
        }
      }
    }
  }
}

TEST(Encoded, AWeightOfF8HasNoGradientOfItsOwn) {
  Encoded made = make(Encoding::f8_e4m3, 3);
  set_scales(made, DType::f32, 3);
  BackwardRequest request = made.problem.request();
  std::vector<float> dweight(37 * 11);
  request.dweight = {dweight.data(), DType::f32, 11, false};
  const auto refused = backward(made.head(), request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, StatusCode::unsupported);
  EXPECT_EQ(refused.error().message.rfind("dweight: the weight is f8_e4m3, whose numbers are fixed", 0), 0U)
      << refused.error().message;
}

}  // namespace
}  // namespace isologit::test
