// Gradients through a low-rank addition: `exact` is the oracle's bit for bit on every kernel, `fast` within its bound.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "oracle/encoded.hpp"
#include "oracle/logit.hpp"
#include "parties/meeting.hpp"
#include "problem.hpp"
#include "score/low_rank_problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;
using testing_score::low_rank::Factor;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

struct Adapted {
  Problem problem;
  Factor a;  // [r, H]
  Factor b;  // [V, r]
  double scale;
  bool is_dense = false;  // the upstream is that of logits, and dz itself
  Encoding encoding = Encoding::none;
  std::vector<std::uint8_t> bytes = {};  // of an encoded weight, whose numbers are the problem's weight_values
  std::vector<float> scales = {};        // one a row

  std::int64_t rank() const { return a.shape.rows; }
  bool is_f8() const { return encoding != Encoding::none && encoding != Encoding::f64; }
  Head head() const {
    Head head = problem.head();
    head.lora = {a.view(), b.view(), scale};
    if (encoding == Encoding::none) return head;
    head.weight.data = nullptr;
    head.weight.dtype = DType::f32;
    head.weight.row_stride = problem.cols();
    head.encoded = {encoding, bytes.data(), {}, F8Product::real};
    if (is_f8()) head.encoded.scales = {{scales.data(), DType::f32, problem.vocab(), 1, 1}, 1, 0, 0};
    return head;
  }
};

Adapted make(std::uint64_t seed, double scale = 1.0 / 3, DType factors = DType::f32, std::int64_t rank = 3,
             const oracle::DotShape& shape = {5, 29, 11, DType::bf16, DType::bf16, DType::f32},
             DotFamily family = DotFamily::normal) {
  Adapted made{make_problem(shape, DotFamily::normal, seed, 2), Factor(rank, shape.cols, factors),
               Factor(shape.vocab, rank, factors), scale};
  made.problem.data = oracle::make_dot(shape, family, seed);
  oracle::Random random(seed + 7);
  for (std::int64_t j = 0; j < rank; ++j) {
    for (std::int64_t k = 0; k < shape.cols; ++k) made.a.set(j, k, random.normal());
    for (std::int64_t v = 0; v < shape.vocab; ++v) made.b.set(v, j, random.normal());
  }
  return made;
}

Adapted with_dz(std::uint64_t seed, double scale = 0.75) {
  Adapted made = make(seed, scale);
  Problem& problem = made.problem;
  problem.ids.clear();
  problem.d_logprobs.clear();
  problem.d_lse.clear();
  problem.d_entropy.clear();
  oracle::Random random(seed);
  for (std::int64_t i = 0; i < problem.rows() * problem.vocab(); ++i) {
    problem.d_logits.push_back(static_cast<float>(random.normal()));
  }
  made.is_dense = true;
  return made;
}

struct Found {
  std::vector<float> dhidden, dweight, da, db;
};

// The logits' dz by the oracle, then the sums.
struct Right {
  Found gradients;
  std::vector<float> dz;
  std::vector<std::uint8_t> skipped;
};

oracle::Buffer buffer_of(const Adapted& made, std::int64_t count, double old) {
  return {std::vector<double>(size(count), made.problem.accumulate ? old : 0.0), made.problem.output};
}

// What buffers hold beforehand.
constexpr double kOld[] = {0.5, -0.25, 1.5, -3};

Right right_of(const Adapted& made) {
  Problem problem = made.problem;
  const std::int64_t rows = problem.rows();
  const std::int64_t vocab = problem.vocab();
  const std::int64_t cols = problem.cols();
  const std::int64_t rank = made.rank();
  for (std::int64_t n = 0; n < rows; ++n) {
    const auto factors =
        oracle::low_rank_factors(problem.data.hidden_row(n), made.a.values.data(), size(rank), size(cols), made.scale);
    for (std::int64_t v = 0; v < vocab; ++v) {
      const oracle::Terms terms{problem.data.hidden_row(n), problem.data.weight_row(v), size(cols)};
      problem.z0.push_back(
          oracle::low_rank_logit(terms, problem.data.bias_of(v), factors, made.b.values.data() + v * rank));
    }
  }
  Expected expected;
  if (made.is_dense) {  // which may hold what the oracle of dz does not take
    expected.dz = problem.d_logits;
    expected.skipped.assign(size(rows), 0);
    for (std::int64_t n = 0; n < rows; ++n) {
      const auto begin = problem.z0.begin() + n * vocab;
      if (std::any_of(begin, begin + vocab, [](float z) { return std::isnan(z); })) {
        std::fill_n(expected.dz.begin() + n * vocab, vocab, oracle::quiet_nan());
      }
    }
  } else {
    problem.accumulate = false;
    expected = expect(problem);
  }
  const oracle::GradientSums sums{expected.dz, size(rows), size(vocab), expected.skipped};
  const oracle::LowRankOperands operands{problem.data.hidden_values,
                                         problem.data.weight_values,
                                         made.a.values,
                                         made.b.values,
                                         size(rank),
                                         size(cols),
                                         made.scale};
  auto found =
      oracle::low_rank_gradients(sums, operands, buffer_of(made, rows * cols, kOld[0]),
                                 buffer_of(made, rank * cols, kOld[2]), buffer_of(made, vocab * rank, kOld[3]));
  return {{found.dhidden,
           made.is_f8()
               ? std::vector<float>()
               : oracle::dweight(sums, problem.data.hidden_values, size(cols), buffer_of(made, vocab * cols, kOld[1])),
           found.da, found.db},
          expected.dz,
          expected.skipped};
}

// Of parties that share the vocabulary: the ids of each one's from split[p] on.
Found run(const Adapted& made, const BackwardOptions& options, const std::vector<std::int64_t>& split) {
  const Problem& problem = made.problem;
  const DType dtype = problem.output;
  const auto bytes = [&](std::int64_t count, double old) {
    std::vector<std::uint8_t> made_bytes(size(count) * dtype_size(dtype));
    for (std::size_t i = 0; i < size(count); ++i) oracle::encode(dtype, made_bytes.data(), i, static_cast<float>(old));
    return made_bytes;
  };
  const auto floats = [&](const std::vector<std::uint8_t>& of) {
    const std::vector<double> values = oracle::decode_all(dtype, of.data(), of.size() / dtype_size(dtype));
    return std::vector<float>(values.begin(), values.end());
  };
  const std::int64_t cols = problem.cols();
  const std::int64_t rank = made.rank();
  const std::size_t parties = split.size() - 1;
  std::vector dhidden(parties, bytes(problem.rows() * cols, kOld[0]));
  std::vector dweight = bytes(problem.vocab() * cols, kOld[1]);
  std::vector da(parties, bytes(rank * cols, kOld[2]));
  std::vector db = bytes(problem.vocab() * rank, kOld[3]);
  Meeting meeting(parties);
  meeting.hold([&](std::size_t p) {
    const auto element = static_cast<std::int64_t>(dtype_size(dtype));
    Head head = part_of(made.head(), split[p], split[p + 1]);
    head.lora.b.data = static_cast<const char*>(head.lora.b.data) +
                       split[p] * rank * static_cast<std::int64_t>(dtype_size(head.lora.b.dtype));
    head.lora.b.rows = split[p + 1] - split[p];
    BackwardOptions own = options;
    if (parties > 1) own.peers = meeting.peers(p, split[p], problem.vocab());
    BackwardRequest request = problem.request();
    request.dhidden = {dhidden[p].data(), dtype, cols, problem.accumulate};
    if (!made.is_f8()) request.dweight = {dweight.data() + split[p] * cols * element, dtype, cols, problem.accumulate};
    request.dlora_a = {da[p].data(), dtype, cols, problem.accumulate};
    request.dlora_b = {db.data() + split[p] * rank * element, dtype, rank, problem.accumulate};
    const auto report = backward(head, request, own);
    EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().message);
    return report.has_value();
  });
  for (std::size_t p = 1; p < parties; ++p) {
    EXPECT_EQ(dhidden[p], dhidden[0]);
    EXPECT_EQ(da[p], da[0]);
  }
  if (made.is_f8()) dweight.clear();  // there is none
  return {floats(dhidden[0]), floats(dweight), floats(da[0]), floats(db)};
}

Found run(const Adapted& made, const BackwardOptions& options) { return run(made, options, {0, made.problem.vocab()}); }

void expect_found(const Found& found, const Found& right, const std::string& what) {
  expect_same_bits(found.dhidden, right.dhidden, what + " dhidden");
  expect_same_bits(found.dweight, right.dweight, what + " dweight");
  expect_same_bits(found.da, right.da, what + " da");
  expect_same_bits(found.db, right.db, what + " db");
}

BackwardOptions options_of(Arithmetic arithmetic, const std::string& kernel = "", int threads = 2) {
  BackwardOptions options;
  options.arithmetic = arithmetic;
  options.kernel = kernel;
  options.threads = threads;
  return options;
}

void expect_exact(const Adapted& made, const std::string& what) {
  const Right right = right_of(made);
  for (const std::string& kernel : runnable_kernels()) {
    expect_found(run(made, options_of(Arithmetic::exact, kernel)), right.gradients, what + " " + kernel);
  }
}

// Within `allowed` and a rounding; what is not finite is as it is.
void expect_near(const std::vector<float>& found, const std::vector<float>& right, const std::vector<double>& allowed,
                 const std::string& what) {
  ASSERT_EQ(found.size(), right.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto got = static_cast<double>(found[i]);
    const auto wanted = static_cast<double>(right[i]);
    if (!std::isfinite(wanted)) {
      EXPECT_TRUE(std::isnan(wanted) ? std::isnan(got) : got == wanted) << what << "[" << i << "]: " << got;
    } else {
      EXPECT_LE(std::fabs(got - wanted), allowed[i] + std::fabs(wanted) * 0x1p-23 + 0x1p-149)
          << what << "[" << i << "]: " << got << ", " << wanted;
    }
  }
}

// The bounds of CONTRACT.md 5.
void expect_fast(const Adapted& made, const std::string& what) {
  const Right right = right_of(made);
  const Problem& problem = made.problem;
  const std::int64_t cols = problem.cols();
  const std::int64_t rank = made.rank();
  std::vector<double> dhidden(size(problem.rows() * cols)), da(size(rank * cols)), db(size(problem.vocab() * rank));
  const auto norm = [&](const double* x) {
    double sum = 0;
    for (std::int64_t k = 0; k < cols; ++k) sum += x[k] * x[k];
    return std::sqrt(sum);
  };
  for (std::int64_t n = 0; n < problem.rows(); ++n) {
    if (right.skipped[size(n)] != 0) continue;
    for (std::int64_t v = 0; v < problem.vocab(); ++v) {
      const double dz = std::fabs(static_cast<double>(right.dz[size(n * problem.vocab() + v)])) * 0x1p-16;
      for (std::int64_t k = 0; k < cols; ++k) dhidden[size(n * cols + k)] += dz * norm(problem.data.weight_row(v));
      for (std::int64_t j = 0; j < rank; ++j) {
        const double b = std::fabs(made.b.values[size(v * rank + j)] * made.scale);
        const double* a = &made.a.values[size(j * cols)];
        double u = 0;
        for (std::int64_t k = 0; k < cols; ++k) {
          u += std::fabs(a[k] * problem.data.hidden_row(n)[k]);
          dhidden[size(n * cols + k)] += dz * b * norm(a);
          da[size(j * cols + k)] += dz * b * std::fabs(problem.data.hidden_row(n)[k]);
        }
        db[size(v * rank + j)] += dz * std::fabs(made.scale) * u;
      }
    }
  }
  for (const std::string& kernel : runnable_kernels()) {
    const Found one = run(made, options_of(Arithmetic::fast, kernel, 1));
    expect_near(one.dhidden, right.gradients.dhidden, dhidden, what + " dhidden " + kernel);
    expect_near(one.da, right.gradients.da, da, what + " da " + kernel);
    expect_near(one.db, right.gradients.db, db, what + " db " + kernel);
    expect_found(run(made, options_of(Arithmetic::fast, kernel, 3)), one, what + " threads " + kernel);
  }
}

TEST(Lora, FactorsOfEveryTypeAndScale) {
  for (const DType factors : {DType::f32, DType::bf16, DType::f16}) {
    for (const double scale : {1.0 / 3, -16.0, 0.0}) {
      const Adapted made = make(3, scale, factors);
      expect_exact(made, fmt::format("{} scale {}", dtype_name(factors), scale));
      expect_fast(made, fmt::format("{} scale {}", dtype_name(factors), scale));
    }
  }
}

// The weight's numbers become those of another encoding, of which f64 ones have bits that no sum of two floats has.
// With a dense upstream one is beyond f32's range.
void encode(Adapted& made, Encoding encoding, std::uint64_t seed) {
  made.encoding = encoding;
  oracle::Random random(seed);
  std::vector<double>& values = made.problem.data.weight_values;
  for (std::int64_t v = 0; v < made.problem.vocab(); ++v) {
    if (made.is_f8()) made.scales.push_back(static_cast<float>(random.normal()) / 100);
    for (std::int64_t k = 0; k < made.problem.cols(); ++k) {
      double& value = values[size(v * made.problem.cols() + k)];
      if (made.is_f8()) {
        made.bytes.push_back(static_cast<std::uint8_t>(random.below(0x78) + (random.below(2) == 0 ? 0x80 : 0)));
        const auto row_scale = static_cast<double>(made.scales.back());
        value = oracle::f8_number(encoding, made.bytes.back(), row_scale, F8Product::real).finite.get_d();
        continue;
      }
      value = made.is_dense && v == 3 && k == 2 ? 0x1.23456789abcdfp300 : random.normal();
      const auto* raw = reinterpret_cast<const std::uint8_t*>(&value);
      made.bytes.insert(made.bytes.end(), raw, raw + sizeof value);
    }
  }
}

TEST(Lora, BesideWeightsOfF64AndF8) {
  for (const Encoding encoding : {Encoding::f64, Encoding::f8_e4m3}) {
    for (const bool dense : {false, true}) {
      Adapted made = dense ? with_dz(21) : make(19);
      encode(made, encoding, 20);
      const std::string what = std::string(encoding_name(encoding)) + (dense ? ", dense" : "");
      expect_exact(made, what);
      if (!dense) expect_fast(made, what);
    }
  }
}

TEST(Lora, HiddenStatesOfEveryFamily) {
  for (const DotFamily family : oracle::dot_families) {
    const Adapted made = make(5, 0.3, DType::f32, 2, {4, 21, 9, DType::f32, DType::bf16, {}}, family);
    expect_exact(made, std::string(name_of(family)));
  }
}

TEST(Lora, TransformsAndBuffers) {
  for (const DType output : {DType::f32, DType::bf16, DType::f16}) {
    Adapted made = make(7);
    made.problem.transforms = {true, 3.0F, ScaleKind::multiply, -0.4F};
    made.problem.temperatures = {0.7F};
    made.problem.output = output;
    expect_exact(made, "transforms");
    made.problem.accumulate = true;
    expect_exact(made, fmt::format("into {}", dtype_name(output)));
  }
}

TEST(Lora, ManyRowsIdsAndColumns) {
  const Adapted made = make(9, 0.5, DType::bf16, 17, {67, 301, 131, DType::bf16, DType::bf16, {}});
  const Right right = right_of(made);
  expect_found(run(made, options_of(Arithmetic::exact)), right.gradients, "wide");
  expect_found(run(made, options_of(Arithmetic::exact, "portable", 3)), right.gradients, "wide");
}

// s g is out of f64's range, or what is left of it below; the addition itself may be a common number again.
TEST(Lora, ScalesThatF64DoesNotHold) {
  for (const double scale : {0x1p1000, 0x1.5p-1000, 0x1p-1074, 0x1.fffffffffffffp1023}) {
    Adapted made = with_dz(11, scale);
    expect_exact(made, fmt::format("scale {}", scale));
    expect_fast(made, fmt::format("scale {}", scale));
    const double unit = scale < 1 ? 0x1p120 : 0x1p-140;
    for (std::int64_t j = 0; j < made.rank(); ++j) {
      for (std::int64_t k = 0; k < made.problem.cols(); ++k) made.a.set(j, k, unit * (1 + static_cast<double>(k)));
      for (std::int64_t v = 0; v < made.problem.vocab(); ++v) made.b.set(v, j, unit);
    }
    expect_exact(made, fmt::format("common products, scale {}", scale));
  }
}

// The addition takes the weight away but for what f32 does not hold.
TEST(Lora, Cancellation) {
  Adapted made = with_dz(13, -1);
  for (std::int64_t v = 0; v < made.problem.vocab(); ++v) {
    for (std::int64_t j = 0; j < 3; ++j) made.b.set(v, j, j == 0 ? 1 : 0x1p-60 * static_cast<double>(v));
    for (std::int64_t k = 0; k < made.problem.cols(); ++k) {
      const auto at = size(v * made.problem.cols() + k);
      made.problem.data.weight_values[at] = 1 + static_cast<double>(k);
      oracle::encode(DType::bf16, made.problem.data.weight.data(), at, static_cast<float>(1 + k));
      made.a.set(0, k, 1 + static_cast<double>(k));
    }
  }
  expect_exact(made, "cancellation");
  expect_fast(made, "cancellation");
}

// Sums a hair above a midpoint, 1 + 2^-24 + 2^-60 - 2^-62, of factors whose last bit decides.
TEST(Lora, TheLastBitsOfAFactorDecide) {
  const oracle::DotShape shape{2, 3, 3, DType::f32, DType::f32, {}};
  Adapted made{{}, Factor(2, 3, DType::f32), Factor(3, 2, DType::f32), 1.0, true};
  made.problem.data = oracle::make_dot(shape, DotFamily::constant, 1);
  const float wide[] = {1, 0x1p-12F, 0x1p-30F};
  const float small[] = {0x1p-62F, 0, 0};
  for (std::int64_t k = 0; k < 3; ++k) {
    const std::size_t at = size(k);
    oracle::encode(DType::f32, made.problem.data.hidden.data(), at, wide[k]);
    oracle::encode(DType::f32, made.problem.data.hidden.data(), 3 + at, small[k]);
    made.problem.data.hidden_values[at] = static_cast<double>(wide[k]);
    made.problem.data.hidden_values[3 + at] = static_cast<double>(small[k]);
    made.a.set(0, k, static_cast<double>(wide[k]));
    made.a.set(1, k, static_cast<double>(small[k]));
    made.b.set(k, 0, static_cast<double>(wide[k]));
    made.b.set(k, 1, k == 0 ? -1 : 0);
    for (std::size_t v = 0; v < 3; ++v) {
      oracle::encode(DType::f32, made.problem.data.weight.data(), 3 * at + v, 0);
      made.problem.data.weight_values[3 * at + v] = 0;
    }
  }
  made.problem.d_logits = {wide[0], wide[1], wide[2], -1, 0, 0};
  const Found right = right_of(made).gradients;
  EXPECT_EQ(right.dhidden[0], 1 + 0x1p-23F);
  EXPECT_EQ(right.da[0], 1 + 0x1p-23F);
  EXPECT_EQ(right.db[0], 1 + 0x1p-23F);
  expect_exact(made, "last bits");
}

TEST(Lora, WhatIsNotFinite) {
  const auto changed = [](const auto& change) {
    Adapted made = with_dz(17);
    change(made);
    return made;
  };
  const auto inf = static_cast<double>(kInf);
  const std::array<Adapted, 6> all = {
      changed([&](Adapted& made) { made.a.set(1, 4, inf); }),
      changed([&](Adapted& made) { made.b.set(3, 2, -inf); }),
      changed([&](Adapted& made) { made.b.set(3, 2, std::nan("")); }),
      changed([&](Adapted& made) { made.problem.d_logits[30] = kInf; }),
      changed([&](Adapted& made) { made.problem.d_logits[30] = kInf, made.b.set(1, 0, 0), made.scale = 0; }),
      changed([&](Adapted& made) { made.problem.d_logits[30] = std::nanf(""); }),
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    expect_exact(all[i], fmt::format("case {}", i));
    expect_fast(all[i], fmt::format("case {}", i));
  }
}

TEST(Lora, PartiesThatShareTheVocabulary) {
  const Adapted made = make(19);
  const Right right = right_of(made);
  for (const auto& split : splits_of(made.problem.vocab())) {
    expect_found(run(made, options_of(Arithmetic::exact), split), right.gradients, "parties");
    const Found once = run(made, options_of(Arithmetic::fast), split);
    expect_found(run(made, options_of(Arithmetic::fast, "", 1), split), once, "parties, by one thread each");
  }
}

TEST(Lora, OutputsWithoutAnAdditionAreRefused) {
  const Adapted made = make(21);
  std::vector<float> da(33);
  BackwardRequest request = made.problem.request();
  request.dlora_a = {da.data(), DType::f32, 11, false};
  const auto refused = backward(made.problem.head(), request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().message.rfind("dlora_a or dlora_b: given, but the head has no low-rank addition", 0), 0U);
  request.dlora_a.row_stride = 10;
  EXPECT_EQ(backward(made.head(), request).error().message.rfind("dlora_a: row_stride 10; expected at least 11", 0),
            0U);
  request.dlora_a = {const_cast<void*>(made.a.view().data), DType::f32, 11, false};
  EXPECT_EQ(backward(made.head(), request).error().message, "dlora_a: the output buffer overlaps the input lora a");
}

}  // namespace
}  // namespace isologit::test
