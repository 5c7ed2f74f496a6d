// Weights of f64 and f8: every logit is the oracle's, on every kernel.
#include "oracle/encoded.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "isologit/partial.hpp"
#include "isologit/sample.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A head with an encoded weight, and hidden rows.
struct Problem {
  std::int64_t rows = 4;
  std::int64_t vocab = 70;
  std::int64_t cols = 130;
  std::int64_t row_stride = 133;
  Encoding encoding = Encoding::f8_e4m3;
  F8Product product = F8Product::real;
  std::int64_t block_rows = 0;
  std::int64_t block_cols = 0;
  DType scale_dtype = DType::f32;
  std::vector<std::uint8_t> bytes;  // of the weight
  std::vector<std::uint8_t> scales;
  std::vector<float> bias;
  std::vector<float> hidden;
  std::int64_t rank = 0;
  std::vector<float> lora_a, lora_b;
  double lora_scale = 1;

  std::int64_t scale_rows() const { return block_rows == 0 ? 1 : (vocab + block_rows - 1) / block_rows; }
  std::int64_t scale_cols() const { return block_cols == 0 ? 1 : (cols + block_cols - 1) / block_cols; }

  Head head() const {
    Head head{.vocab_size = vocab};
    head.weight = {nullptr, DType::f32, vocab, cols, row_stride};
    head.bias = {bias.data(), DType::f32, static_cast<std::int64_t>(bias.size())};
    if (bias.empty()) head.bias = {};
    if (rank > 0) head.lora = {matrix(lora_a, rank, cols), matrix(lora_b, vocab, rank), lora_scale};
    head.encoded = {encoding, bytes.data(), {}, product};
    if (encoding != Encoding::f64) {
      head.encoded.scales = {
          {scales.data(), scale_dtype, scale_rows(), scale_cols(), scale_cols()}, block_rows, block_cols, 0};
    }
    return head;
  }
  MatrixView hidden_view() const { return matrix(hidden, rows, cols); }

  oracle::Number weight(std::int64_t v, std::int64_t k) const {
    const auto at = static_cast<std::size_t>(v * row_stride + k);
    if (encoding == Encoding::f64) {
      double x;
      std::memcpy(&x, bytes.data() + 8 * at, sizeof x);
      return oracle::number_of(x);
    }
    const std::int64_t row = block_rows == 0 ? 0 : v / block_rows;
    const std::int64_t col = block_cols == 0 ? 0 : k / block_cols;
    const double scale = oracle::decode(scale_dtype, scales.data(), static_cast<std::size_t>(row * scale_cols() + col));
    return oracle::f8_number(encoding, bytes[at], scale, product);
  }
  // With the low-rank addition, where all is finite.
  oracle::Number merged(std::int64_t v, std::int64_t k) const {
    oracle::Number w = weight(v, k);
    for (std::int64_t j = 0; j < rank; ++j) {
      w.finite += mpq_class(lora_scale) * static_cast<double>(lora_b[static_cast<std::size_t>(v * rank + j)]) *
                  static_cast<double>(lora_a[static_cast<std::size_t>(j * cols + k)]);
    }
    return w;
  }
  // The logits before they are rounded.
  std::vector<oracle::Number> exact() const {
    std::vector<oracle::Number> z;
    std::vector<std::vector<oracle::Number>> numbers(static_cast<std::size_t>(vocab));
    for (std::int64_t v = 0; v < vocab; ++v) {
      for (std::int64_t k = 0; k < cols; ++k) numbers[static_cast<std::size_t>(v)].push_back(merged(v, k));
    }
    for (std::int64_t n = 0; n < rows; ++n) {
      const std::vector<double> h(hidden.begin() + n * cols, hidden.begin() + (n + 1) * cols);
      for (std::int64_t v = 0; v < vocab; ++v) {
        const double b = bias.empty() ? 0 : static_cast<double>(bias[static_cast<std::size_t>(v)]);
        z.push_back(oracle::sum_of(h, numbers[static_cast<std::size_t>(v)], b));
      }
    }
    return z;
  }
};

using Random = std::mt19937;

float normal(Random& random) { return std::normal_distribution<float>()(random); }

bool is_finite(Encoding encoding, std::uint8_t bits) {
  return encoding == Encoding::f8_e4m3 ? (bits & 0x7F) != 0x7F : (bits & 0x7C) != 0x7C;
}

// Finite numbers: of f8 any, of f64 such that all bits count.
Problem make(Encoding encoding, unsigned seed) {
  Problem problem;
  problem.encoding = encoding;
  Random random(seed);
  const auto count = static_cast<std::size_t>(problem.vocab * problem.row_stride);
  if (encoding == Encoding::f64) {
    for (std::size_t i = 0; i < count; ++i) {
      const double x = std::normal_distribution<double>()(random);
      const auto* raw = reinterpret_cast<const std::uint8_t*>(&x);
      problem.bytes.insert(problem.bytes.end(), raw, raw + sizeof x);
    }
  }
  while (problem.bytes.size() < count) {
    const auto bits = static_cast<std::uint8_t>(random());
    if (is_finite(encoding, bits)) problem.bytes.push_back(bits);
  }
  for (std::int64_t i = 0; i < problem.rows * problem.cols; ++i) problem.hidden.push_back(normal(random));
  for (std::int64_t i = 0; i < problem.vocab; ++i) problem.bias.push_back(normal(random));
  return problem;
}

void set_scales(Problem& problem, std::int64_t block_rows, std::int64_t block_cols, DType dtype, unsigned seed) {
  Random random(seed);
  problem.block_rows = block_rows;
  problem.block_cols = block_cols;
  problem.scale_dtype = dtype;
  const auto count = static_cast<std::size_t>(problem.scale_rows() * problem.scale_cols());
  problem.scales.resize(count * dtype_size(dtype));
  for (std::size_t i = 0; i < count; ++i) oracle::encode(dtype, problem.scales.data(), i, normal(random) / 100);
}

void set_weight(Problem& problem, std::int64_t v, std::int64_t k, double x) {
  std::memcpy(problem.bytes.data() + 8 * (v * problem.row_stride + k), &x, sizeof x);
}

std::vector<float> logits_of(const Head& head, const MatrixView& hidden, DType dtype, const ScoreOptions& options) {
  const auto count = static_cast<std::size_t>(hidden.rows * head.vocab_size);
  std::vector<std::uint8_t> buffer(count * dtype_size(dtype));
  ScoreRequest request{.hidden = hidden};
  request.logits = {buffer.data(), dtype, head.vocab_size, 0, head.vocab_size};
  const auto report = score(head, request, options);
  EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().message);
  std::vector<float> z;
  for (std::size_t i = 0; i < count; ++i) z.push_back(static_cast<float>(oracle::decode(dtype, buffer.data(), i)));
  return z;
}

class Encoded : public KernelTest {
 protected:
  void expect_right(const Problem& problem, const std::string& what) {
    const std::vector<oracle::Number> exact = problem.exact();
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const std::vector<float> found = logits_of(problem.head(), problem.hidden_view(), dtype, options(2));
      ASSERT_EQ(found.size(), exact.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        const float expected = oracle::rounded(exact[i], dtype);
        ASSERT_TRUE(same_logit(found[i], expected))
            << what << ", " << dtype_name(dtype) << " logit " << i << ": " << found[i] << ", expected " << expected;
      }
    }
  }
};

TEST_P(Encoded, F8) {
  struct Layout {
    std::int64_t rows, cols;
  };
  unsigned seed = 0;
  for (const Encoding encoding : {Encoding::f8_e4m3, Encoding::f8_e5m2}) {
    for (const F8Product product : {F8Product::real, F8Product::bf16}) {
      // One scale for all, one a row, blocks of which the last are partial.
      for (const Layout layout : {Layout{0, 0}, {1, 0}, {32, 32}, {128, 128}}) {
        Problem problem = make(encoding, ++seed);
        problem.product = product;
        constexpr std::array dtypes = {DType::f32, DType::bf16, DType::f16};
        set_scales(problem, layout.rows, layout.cols, dtypes[seed % 3], seed);
        if (layout.rows == 32) set_scales(problem, layout.rows, layout.cols, DType::f32, seed);
        expect_right(problem, std::string(encoding_name(encoding)) + " in blocks of " + std::to_string(layout.rows));
      }
    }
  }
}

// NaN, infinities and zeros in the weight, the hidden states and the scales; scales that take numbers past both ends
// of f32 and bf16.
TEST_P(Encoded, F8SpecialNumbers) {
  for (const Encoding encoding : {Encoding::f8_e4m3, Encoding::f8_e5m2}) {
    for (const F8Product product : {F8Product::real, F8Product::bf16}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Problem problem = make(encoding, 77);
        problem.product = product;
        set_scales(problem, 1, 0, dtype, 3);
        const std::vector<float> scales = {
            0,        -0.0F,       kInf,      -kInf,       std::numeric_limits<float>::quiet_NaN(),
            0x1p127F, -0x1.8p126F, 0x1p-149F, 0x1.8p-133F, 0x1p-140F};
        for (std::size_t i = 0; i < scales.size(); ++i) oracle::encode(dtype, problem.scales.data(), i, scales[i]);
        for (std::int64_t v = 20; v < 30; ++v) problem.bytes[static_cast<std::size_t>(v * problem.row_stride)] = 0x7F;
        problem.bytes[static_cast<std::size_t>(31 * problem.row_stride + 1)] = 0x7C;  // inf in E5M2
        problem.bytes[static_cast<std::size_t>(32 * problem.row_stride + 1)] = 0xFC;
        problem.bytes[static_cast<std::size_t>(33 * problem.row_stride + 1)] = 0x00;
        problem.hidden[static_cast<std::size_t>(problem.cols + 1)] = kInf;
        problem.hidden[static_cast<std::size_t>(2 * problem.cols + 1)] = 0;
        problem.hidden[static_cast<std::size_t>(3 * problem.cols + 1)] = std::numeric_limits<float>::quiet_NaN();
        expect_right(problem, std::string(encoding_name(encoding)));
      }
    }
  }
}

TEST_P(Encoded, F64) {
  expect_right(make(Encoding::f64, 5), "f64");
  Problem special = make(Encoding::f64, 6);
  const std::vector<double> numbers = {
      1e300,     -1e-300, 0x1p-1074, 1e39,    0x1p-150, 0x1.0000001p-126, 0x1.fffffffffffffp127, INFINITY,
      -INFINITY, NAN,     -0.0,      0x1p128, 1e308,    0x1.8p-149};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    set_weight(special, static_cast<std::int64_t>(i), 3, numbers[i]);
    set_weight(special, 20, static_cast<std::int64_t>(i) % 5, numbers[i]);
  }
  special.hidden[static_cast<std::size_t>(special.cols + 3)] = kInf;
  special.hidden[static_cast<std::size_t>(2 * special.cols + 3)] = -kInf;
  special.hidden[static_cast<std::size_t>(3 * special.cols + 3)] = 0;
  expect_right(special, "special f64");
  // Numbers of f32, and such as differ from them in the last bit of all.
  Problem near = make(Encoding::f64, 7);
  near.bias.clear();
  for (std::int64_t v = 0; v < near.vocab; ++v) {
    for (std::int64_t k = 0; k < near.cols; ++k) set_weight(near, v, k, 0);
    set_weight(near, v, 0, v % 2 == 0 ? 1 + 0x1p-24 : std::nextafter(1 + 0x1p-24, 2));
  }
  for (std::int64_t n = 0; n < near.rows; ++n) near.hidden[static_cast<std::size_t>(n * near.cols)] = 1;
  expect_right(near, "f64 beside a midpoint");
}

// 9/8 times this scale lies above a midpoint of bf16 by less than f32 tells: by way of f32 it would be rounded down.
TEST_P(Encoded, AProductIsRoundedToBf16Once) {
  Problem problem = make(Encoding::f8_e4m3, 18);
  problem.product = F8Product::bf16;
  set_scales(problem, 0, 0, DType::f32, 19);
  const float scale = std::ldexp(15437369.0F, -23);
  std::memcpy(problem.scales.data(), &scale, sizeof scale);
  for (std::int64_t v = 0; v < problem.vocab; ++v)
    problem.bytes[static_cast<std::size_t>(v * problem.row_stride)] = 0x39;
  expect_right(problem, "beside a midpoint");
}

// A product rounded to bf16 is a weight of bf16, in every output.
TEST_P(Encoded, ABf16ProductIsABf16Head) {
  Problem problem = make(Encoding::f8_e4m3, 8);
  problem.product = F8Product::bf16;
  set_scales(problem, 32, 32, DType::f32, 9);
  std::vector<std::uint16_t> plain(static_cast<std::size_t>(problem.vocab * problem.cols));
  for (std::int64_t v = 0; v < problem.vocab; ++v) {
    for (std::int64_t k = 0; k < problem.cols; ++k) {
      oracle::encode(DType::bf16, plain.data(), static_cast<std::size_t>(v * problem.cols + k),
                     static_cast<float>(problem.weight(v, k).finite.get_d()));
    }
  }
  Head head = problem.head();
  head.encoded = {};
  head.weight = {plain.data(), DType::bf16, problem.vocab, problem.cols, problem.cols};
  const std::vector<std::int64_t> ids = {1, 69, 3, -100};
  EXPECT_TRUE(same_rows(score_all(problem.head(), problem.hidden_view(), ids, {}, options(2)),
                        score_all(head, problem.hidden_view(), ids, {}, options(2))));
  std::array<std::array<std::int64_t, 4>, 2> drawn{};
  std::size_t which = 0;
  for (const Head& one : {problem.head(), head}) {
    SampleRequest request{.hidden = problem.hidden_view()};
    const std::array<std::uint32_t, 4> positions = {0, 1, 2, 3};
    const std::array<std::uint64_t, 4> sequences{};
    const std::array<std::uint64_t, 1> seeds = {7};
    request.seeds = seeds;
    request.positions = positions;
    request.sequence_ids = sequences;
    request.ids = drawn[which++].data();
    const auto report = sample(one, request, options());
    ASSERT_TRUE(report) << report.error().message;
  }
  EXPECT_EQ(drawn[0], drawn[1]);
}

// A part of the rows, with its scales counted from the whole weight's first row, has the whole one's logits.
TEST_P(Encoded, PartsOfAWeight) {
  Problem problem = make(Encoding::f8_e4m3, 10);
  set_scales(problem, 32, 32, DType::f32, 11);
  problem.bias.clear();
  const std::vector<oracle::Number> whole = problem.exact();
  for (const std::int64_t first : {0, 1, 31, 32, 50}) {
    Head part = problem.head();
    part.weight.rows = part.vocab_size = problem.vocab - first;
    part.encoded.data = problem.bytes.data() + first * problem.row_stride;
    part.encoded.scales.first_row = first;
    const std::vector<float> found = logits_of(part, problem.hidden_view(), DType::f32, options());
    for (std::int64_t n = 0; n < problem.rows; ++n) {
      for (std::int64_t v = first; v < problem.vocab; ++v) {
        ASSERT_TRUE(same_logit(found[static_cast<std::size_t>(n * part.vocab_size + v - first)],
                               oracle::rounded(whole[static_cast<std::size_t>(n * problem.vocab + v)], DType::f32)))
            << first << ": " << n << ", " << v;
      }
    }
  }
}

void add_low_rank(Problem& problem, std::int64_t rank, double scale, unsigned seed) {
  Random random(seed);
  problem.rank = rank;
  problem.lora_scale = scale;
  for (std::int64_t i = 0; i < rank * problem.cols; ++i) problem.lora_a.push_back(normal(random));
  for (std::int64_t i = 0; i < problem.vocab * rank; ++i) problem.lora_b.push_back(normal(random));
}

// One real number of weight and addition, whatever the weight's encoding and the number of its parts.
TEST_P(Encoded, ALowRankAddition) {
  unsigned seed = 30;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const F8Product product : {F8Product::real, F8Product::bf16}) {
      Problem problem = make(Encoding::f8_e4m3, ++seed);
      problem.product = product;
      set_scales(problem, 32, 32, dtype, seed);
      add_low_rank(problem, 3, 1.0 / 3, seed);
      expect_right(problem, "f8");
    }
  }
  for (const double scale : {2.0, 0x1.23456789abcdfp-30, 0.0}) {
    Problem problem = make(Encoding::f64, ++seed);
    add_low_rank(problem, 5, scale, seed);
    expect_right(problem, "f64");
  }
}

// Weights that are no sum of floats are left to the definition, and the addition takes the greatest of them away.
TEST_P(Encoded, ALowRankAdditionBesideNumbersThatNoSumOfFloatsIs) {
  Problem problem = make(Encoding::f64, 41);
  add_low_rank(problem, 2, -0x1p1000, 42);
  for (std::int64_t v = 0; v < problem.vocab; v += 3) {
    const double w = std::ldexp(1 + 0x1p-23, 1000);
    set_weight(problem, v, 7, w);
    problem.lora_b[static_cast<std::size_t>(2 * v)] = 1;
    problem.lora_b[static_cast<std::size_t>(2 * v + 1)] = 0x1p-149F;
  }
  for (std::int64_t k = 0; k < problem.cols; ++k) {
    problem.lora_a[static_cast<std::size_t>(k)] = k == 7 ? 1 + 0x1p-23F : 0;
    problem.lora_a[static_cast<std::size_t>(problem.cols + k)] = 0x1p-149F;
  }
  expect_right(problem, "beside 2^1000");
}

// inf and NaN of the factors beside f64 and f8, and of the weight beside the factors: as in CONTRACT.md 1.
TEST_P(Encoded, ALowRankAdditionThatIsNotFinite) {
  for (const Encoding encoding : {Encoding::f64, Encoding::f8_e4m3}) {
    Problem problem = make(encoding, 43);
    if (encoding != Encoding::f64) set_scales(problem, 1, 0, DType::f32, 44);
    add_low_rank(problem, 2, 0.5, 45);
    for (std::int64_t n = 0; n < problem.rows; ++n) problem.hidden[static_cast<std::size_t>(n * problem.cols + 5)] = 1;
    problem.hidden[static_cast<std::size_t>(problem.cols + 5)] = 0;  // of row 1
    problem.lora_a[5] = kInf;                                        // u[0] is inf, in row 1 NaN
    for (std::int64_t v = 0; v < problem.vocab; ++v) {
      problem.lora_b[static_cast<std::size_t>(2 * v)] = static_cast<float>(v % 3 - 1);
    }
    problem.lora_b[2 * 9 + 1] = -kInf;
    const std::vector<float> found = logits_of(problem.head(), problem.hidden_view(), DType::f32, options());
    for (std::int64_t n = 0; n < problem.rows; ++n) {
      for (std::int64_t v = 0; v < problem.vocab; ++v) {
        const float z = found[static_cast<std::size_t>(n * problem.vocab + v)];
        const std::string what = std::to_string(n) + ", " + std::to_string(v);
        if (n == 1 || v % 3 == 1) {  // NaN times b, inf times 0
          EXPECT_TRUE(std::isnan(z)) << what;
        } else if (v == 9) {  // -inf of u[0], and an infinity of u[1]'s sign
          EXPECT_FALSE(std::isfinite(z)) << what;
        } else {
          EXPECT_EQ(z, v % 3 == 0 ? -kInf : kInf) << what;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernel, Encoded, testing::ValuesIn(runnable_kernels()),
                         [](const auto& tested) { return tested.param; });

// Fast logits of two or three parts keep the bound of docs/kernels.md, and do not depend on the rows beside them.
TEST(EncodedFast, BoundAndRows) {
  for (const Encoding encoding : {Encoding::f8_e4m3, Encoding::f64}) {
    Problem problem = make(encoding, 12);
    problem.bias.clear();
    if (encoding != Encoding::f64) set_scales(problem, 32, 32, DType::f32, 13);
    ScoreOptions options;
    options.arithmetic = Arithmetic::fast;
    const std::vector<float> all = logits_of(problem.head(), problem.hidden_view(), DType::f32, options);
    const double parts = encoding == Encoding::f64 ? 3 : 2;
    const double roundings = 134 + parts * static_cast<double>(problem.cols) / 256;
    for (std::int64_t n = 0; n < problem.rows; ++n) {
      const float* row = problem.hidden.data() + n * problem.cols;
      const MatrixView one{row, DType::f32, 1, problem.cols, problem.cols};
      const std::vector<float> alone = logits_of(problem.head(), one, DType::f32, options);
      for (std::int64_t v = 0; v < problem.vocab; ++v) {
        double sum = 0;
        double reach = 0;
        for (std::int64_t k = 0; k < problem.cols; ++k) {
          const double product = static_cast<double>(row[k]) * problem.weight(v, k).finite.get_d();
          sum += product;
          reach += std::fabs(product);
        }
        const float z = all[static_cast<std::size_t>(n * problem.vocab + v)];
        EXPECT_LE(std::fabs(static_cast<double>(z) - sum), roundings * 0x1p-24 * reach);
        EXPECT_TRUE(same_logit(z, alone[static_cast<std::size_t>(v)]));
      }
    }
  }
}

void expect_refused(const Problem& problem, const Head& head, const std::string& why,
                    StatusCode code = StatusCode::invalid_argument) {
  std::vector<float> lse(static_cast<std::size_t>(problem.rows));
  ScoreRequest request{.hidden = problem.hidden_view()};
  request.lse = lse.data();
  const auto refused = score(head, request);
  ASSERT_FALSE(refused) << why;
  EXPECT_EQ(refused.error().code, code);
  EXPECT_NE(refused.error().message.find(why), std::string::npos) << refused.error().message;
}

TEST(EncodedErrors, AreTold) {
  Problem problem = make(Encoding::f8_e4m3, 14);
  set_scales(problem, 32, 32, DType::f32, 15);
  const auto refuse = [&](const auto& change, const std::string& why) {
    Head head = problem.head();
    change(head);
    expect_refused(problem, head, why);
  };
  refuse([](Head& head) { head.encoded.scales = {}; }, "f8_scales: none; a weight of f8_e4m3");
  refuse([](Head& head) { head.encoded.scales.values.rows = 2; },
         "shape [2, 5]; expected [3, 5] for a weight of [70, 130]");
  refuse([](Head& head) { head.encoded.scales.values.cols = 6; }, "shape [3, 6]; expected [3, 5]");
  refuse([](Head& head) { head.encoded.scales.block_rows = 0; }, "shape [3, 5]; expected [1, 5]");
  refuse([](Head& head) { head.encoded.scales.first_row = 27; }, "expected [4, 5]");
  for (const std::int64_t bad : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
    refuse([&](Head& head) { head.encoded.scales.block_rows = bad; }, "f8_scales: blocks of");
    refuse([&](Head& head) { head.encoded.scales.block_cols = bad; }, "f8_scales: blocks of");
    refuse([&](Head& head) { head.encoded.scales.first_row = bad; }, "f8_scales: blocks of");
  }
  refuse([](Head& head) { head.encoded.scales.first_row = std::numeric_limits<std::int64_t>::max(); },
         "f8_scales: blocks of");
  refuse([](Head& head) { head.encoded.product = static_cast<F8Product>(2); }, "f8_product: 2");
  refuse([](Head& head) { head.encoded.encoding = static_cast<Encoding>(9); }, "unknown encoding 9");
  refuse([](Head& head) { head.encoded.encoding = Encoding::none; }, "data or scales without an encoding");
  refuse([](Head& head) { head.encoded.encoding = Encoding::f64; }, "given with an encoding of f64");
  refuse([](Head& head) { head.encoded.data = nullptr; }, "encoded weight: data is null");
  refuse([&](Head& head) { head.weight.data = problem.bytes.data(); }, "data is given, and so is an encoding");
  refuse([](Head& head) { head.weight.row_stride = std::numeric_limits<std::int64_t>::max(); },
         "overflow the address space");
}

TEST(EncodedErrors, OutputsMayNotOverlap) {
  Problem problem = make(Encoding::f64, 16);
  ScoreRequest request{.hidden = problem.hidden_view()};
  request.lse = reinterpret_cast<float*>(problem.bytes.data() + problem.bytes.size() - 3 * 8 - 4);
  const auto refused = score(problem.head(), request);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("overlaps the input encoded weight"), std::string::npos);
}

}  // namespace
}  // namespace isologit::testing_score
