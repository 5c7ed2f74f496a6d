// Logits that are written out: each the real number of the last step asked for, rounded once to the type asked for.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "isologit/partial.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::DotData;
using oracle::DotFamily;

constexpr std::array dtypes = {DType::f32, DType::bf16, DType::f16};
constexpr std::uint8_t kUntouched = 0xA5;

// A head with hidden rows, and the temperatures asked for.
struct Problem {
  DotData data;
  Transforms transforms;
  std::vector<float> temperatures;
  std::int64_t vocab;

  Head head() const { return {data.weight_view(), data.bias_view(), vocab, transforms}; }
  std::int64_t rows() const { return data.shape.rows; }
  float temperature(std::int64_t row) const {
    if (temperatures.empty()) return 1;
    return temperatures[temperatures.size() == 1 ? 0 : static_cast<std::size_t>(row)];
  }
  float expected(std::int64_t row, std::int64_t id, DType dtype) const {
    return oracle::last_logit({data.hidden_row(row), data.weight_row(id), static_cast<std::size_t>(data.shape.cols)},
                              data.bias_of(id), transforms, temperature(row), dtype);
  }
};

// A part of the logits in a buffer with room around every row.
struct Buffer {
  LogitsOutput output;
  std::vector<std::uint8_t> bytes;

  Buffer(std::int64_t rows, std::int64_t first_id, std::int64_t count, std::int64_t stride, DType dtype)
      : bytes(static_cast<std::size_t>((rows + 1) * stride + 2) * dtype_size(dtype), kUntouched) {
    output = {bytes.data() + 1, dtype, stride, first_id, count};  // not aligned
  }
  void set(std::int64_t row, std::int64_t id, float value) {
    oracle::encode(output.dtype, bytes.data() + 1,
                   static_cast<std::size_t>(row * output.row_stride + id - output.first_id), value);
  }
};

// The whole buffer that the oracle expects; rows that are not computed are 0.
Buffer expected_buffer(const Problem& problem, const Buffer& shape, const std::vector<std::uint8_t>& computed = {}) {
  const LogitsOutput& part = shape.output;
  Buffer buffer(problem.rows(), part.first_id, part.count, part.row_stride, part.dtype);
  for (std::int64_t row = 0; row < problem.rows(); ++row) {
    const bool zero = !computed.empty() && computed[static_cast<std::size_t>(row)] == 0;
    for (std::int64_t id = part.first_id; id < part.first_id + part.count; ++id) {
      buffer.set(row, id, zero ? 0.0F : problem.expected(row, id, part.dtype));
    }
  }
  return buffer;
}

class LogitsOutputs : public KernelTest {
 protected:
  testing::AssertionResult are_right(const Problem& problem, std::int64_t first_id, std::int64_t count,
                                     std::int64_t stride, DType dtype, int threads = 1) const {
    Buffer found(problem.rows(), first_id, count, stride, dtype);
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    request.temperatures = problem.temperatures;
    request.logits = found.output;
    const auto report = score(problem.head(), request, options(threads));
    if (!report) return testing::AssertionFailure() << report.error().message;
    const Buffer expected = expected_buffer(problem, found);
    if (found.bytes == expected.bytes) return testing::AssertionSuccess();
    const auto at = std::mismatch(found.bytes.begin(), found.bytes.end(), expected.bytes.begin()).first;
    const auto element = (at - found.bytes.begin() - 1) / static_cast<std::ptrdiff_t>(dtype_size(dtype));
    return testing::AssertionFailure() << dtype_name(dtype) << " row " << element / stride << " id "
                                       << first_id + element % stride << " of [" << first_id << ", " << first_id + count
                                       << ") stride " << stride;
  }
};

TEST_P(LogitsOutputs, AreTheOraclesForEveryFamilyTypeAndStep) {
  const std::vector<Transforms> steps = {{},
                                         {true, 12.5F, ScaleKind::none, 1},
                                         {false, 0, ScaleKind::multiply, -0.7F},
                                         {false, 0, ScaleKind::divide, 1.9F},
                                         {true, 3.0F, ScaleKind::multiply, 0.3F},
                                         {true, 3.0F, ScaleKind::multiply, 0.3F, TransformOrder::scale_first},
                                         {true, 0.25F, ScaleKind::divide, 1.9F, TransformOrder::scale_first}};
  const std::vector<std::vector<float>> temperatures = {{}, {0.6F}, {1, 0.7F, 2.5F, 0.01F}};
  std::uint64_t seed = 0;
  for (const DotFamily family : oracle::dot_families) {
    for (const Transforms& transforms : steps) {
      for (const std::vector<float>& temperature : temperatures) {
        for (const DType dtype : dtypes) {
          ++seed;
          if (is_reference() && seed % 3 != 0) continue;
          const std::int64_t vocab = is_reference() || instrumented ? 20 : 70;
          const Problem problem{
              make_dot({4, vocab + 9, 12, dtypes[seed % 3], dtypes[seed / 3 % 3], DType::f32}, family, seed),
              transforms, temperature, vocab};
          oracle::Random random(seed);
          const std::int64_t first = random.between(0, vocab - 1);
          const std::int64_t count = random.between(1, vocab - first);
          ASSERT_TRUE(
              are_right(problem, first, count, count + random.between(0, 5), dtype, 1 + static_cast<int>(seed % 2)))
              << oracle::name_of(family) << " softcap " << transforms.has_softcap << " scale kind "
              << static_cast<int>(transforms.scale_kind) << " order " << static_cast<int>(transforms.order)
              << " temperatures " << temperature.size();
        }
      }
    }
  }
}

// Numbers in the middle between two neighbours of the type, of all sizes it has; f32 holds each.
std::vector<float> midpoints(DType dtype, std::size_t count, std::uint64_t seed) {
  oracle::Random random(seed);
  std::vector<float> result = {dtype == DType::bf16 ? 0x1.FFp127F : 65520.0F,    // where infinity begins
                               dtype == DType::bf16 ? 0x1p-134F : 0x1p-25F,      // half of the smallest
                               dtype == DType::bf16 ? 0x1.8p-133F : 0x1.8p-24F,  // between it and its successor
                               1 + (dtype == DType::bf16 ? 0x1p-8F : 0x1p-11F)};
  while (result.size() < count) {
    const int bits = dtype == DType::bf16 ? 8 : 11;
    const double odd = std::ldexp(1 + 2 * static_cast<double>(random.below(1U << (bits - 1))), -bits);
    const auto exponent = static_cast<int>(dtype == DType::bf16 ? random.between(-20, 60) : random.between(-13, 14));
    result.push_back(static_cast<float>(random.sign() * std::ldexp(1 + odd, exponent)));
  }
  return result;
}

// How many of the problem's logits are wrong when f32 is rounded a second time; all in one row.
int spoilt_by_two_roundings(const Problem& problem, DType dtype) {
  int spoilt = 0;
  for (std::int64_t id = 0; id < problem.vocab; ++id) {
    const float once = problem.expected(0, id, dtype);
    std::array<std::uint8_t, 4> a{}, b{};
    oracle::encode(dtype, a.data(), 0, once);
    oracle::encode(dtype, b.data(), 0, problem.expected(0, id, DType::f32));
    spoilt += a != b ? 1 : 0;
  }
  return spoilt;
}

// A head in f32 over one row with these columns of hidden and weight.
Problem given(const std::vector<float>& hidden, const std::vector<float>& weight, const Transforms& transforms,
              const std::vector<float>& temperatures) {
  Problem problem;
  const auto cols = static_cast<std::int64_t>(hidden.size());
  problem.vocab = static_cast<std::int64_t>(weight.size()) / cols;
  problem.data.shape = {1, problem.vocab, cols, DType::f32, DType::f32, std::nullopt};
  const auto copy = [](const std::vector<float>& from, std::vector<std::uint8_t>& bytes, std::vector<double>& values) {
    bytes.resize(4 * from.size());
    std::memcpy(bytes.data(), from.data(), bytes.size());
    values.assign(from.begin(), from.end());
  };
  copy(hidden, problem.data.hidden, problem.data.hidden_values);
  copy(weight, problem.data.weight, problem.data.weight_values);
  problem.transforms = transforms;
  problem.temperatures = temperatures;
  return problem;
}

// Sums 2^-60 of their size or less beside a midpoint, above and below, and on it.
TEST_P(LogitsOutputs, SumsBesideAMidpointAreRoundedOnce) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<float> weight;
    for (const float middle : midpoints(dtype, 40, 1)) {
      for (const float beside : {-0x1p-60F, 0.0F, 0x1p-60F}) {
        weight.push_back(middle);
        weight.push_back(middle * beside);
      }
    }
    // Steps that change nothing are no steps, so they add no rounding.
    for (const ScaleKind kind : {ScaleKind::none, ScaleKind::multiply, ScaleKind::divide}) {
      for (const std::vector<float>& temperature : {std::vector<float>{}, {1}}) {
        const Problem problem = given({1, 1}, weight, {false, 0, kind, 1}, temperature);
        EXPECT_GT(spoilt_by_two_roundings(problem, dtype), 20) << dtype_name(dtype);
        EXPECT_TRUE(are_right(problem, 0, problem.vocab, problem.vocab, dtype));
        EXPECT_TRUE(are_right(problem, 3, 50, 51, dtype));
      }
    }
  }
}

// c tanh(z/c) lies a little below z for small z, and a little below c for large ones.
TEST_P(LogitsOutputs, SoftcapsBesideAMidpointAreRoundedOnce) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const std::vector<float> middles = midpoints(dtype, 30, 2);
    for (const float cap : {0x1p100F, 3e38F}) {
      const Problem problem = given({1}, middles, {true, cap, ScaleKind::none, 1}, {});
      EXPECT_GT(spoilt_by_two_roundings(problem, dtype), 5) << dtype_name(dtype);
      EXPECT_TRUE(are_right(problem, 0, problem.vocab, problem.vocab, dtype)) << cap;
      std::vector<float> twice = middles;
      for (float& z : twice) z *= 2;
      const Problem scaled = given({1}, twice, {true, cap, ScaleKind::multiply, 0.5F, TransformOrder::scale_first}, {});
      EXPECT_GT(spoilt_by_two_roundings(scaled, dtype), 5) << dtype_name(dtype);
      EXPECT_TRUE(are_right(scaled, 0, scaled.vocab, scaled.vocab, dtype)) << cap;
    }
    for (const float cap : middles) {
      const float size = std::fabs(cap);
      const Problem problem =
          given({1}, {11 * size, -20 * size, 1e30F, -3e38F, size, std::numeric_limits<float>::infinity()},
                {true, size, ScaleKind::none, 1}, {});
      EXPECT_TRUE(are_right(problem, 0, problem.vocab, problem.vocab, dtype)) << cap;
    }
  }
}

TEST_P(LogitsOutputs, ScalesAndTemperaturesBesideAMidpointAreRoundedOnce) {
  int spoilt = 0;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const float by : {0.3F, 1.9F, 0.0390625F, 0.7F, 3.0F}) {
      std::vector<float> products;
      std::vector<float> quotients;
      for (const float middle : midpoints(dtype, 40, 3)) {
        for (const float near : {std::nextafter(middle, 0.0F), middle, 2 * middle - std::nextafter(middle, 0.0F)}) {
          products.push_back(near / by);
          quotients.push_back(near * by);
        }
      }
      const Problem of_products = given({1}, products, {false, 0, ScaleKind::multiply, by}, {});
      const Problem of_quotients = given({1}, quotients, {false, 0, ScaleKind::divide, by}, {});
      const Problem tempered = given({1}, quotients, {}, {by});
      const Problem scaled = given({1}, quotients, {false, 0, ScaleKind::multiply, 0.5F}, {by / 2});
      for (const Problem* problem : {&of_products, &of_quotients, &tempered, &scaled}) {
        spoilt += spoilt_by_two_roundings(*problem, dtype);
        EXPECT_TRUE(are_right(*problem, 0, problem->vocab, problem->vocab, dtype)) << by;
      }
    }
  }
  EXPECT_GT(spoilt, 100);
}

TEST_P(LogitsOutputs, EveryZeroIsPositive) {
  const std::vector<float> tiny = {-0x1p-149F, -0x1p-140F, -0x1p-134F, -0x1.000002p-134F, -0.0F, 0x1p-149F,
                                   -0x1p-25F,  -0x1p-26F,  -0x1p-100F, 0x1p-126F,         0.0F,  -0x1.8p-25F};
  for (const DType dtype : dtypes) {
    for (const std::vector<float>& temperature : {std::vector<float>{}, {1}, {1e30F}}) {
      EXPECT_TRUE(are_right(given({1}, tiny, {}, temperature), 0, 12, 12, dtype));
    }
  }
}

TEST_P(LogitsOutputs, OfManyRowsAndThreads) {
  const std::int64_t rows = is_reference() || instrumented ? 33 : 250;
  const Problem problem{
      make_dot({rows, 300, 6, DType::bf16, DType::bf16, std::nullopt}, DotFamily::normal, 8), {}, {}, 300};
  for (const int threads : {1, 2, 5}) EXPECT_TRUE(are_right(problem, 120, 17, 20, DType::bf16, threads));
}

// Ignored rows and rows that are left out are 0; supports, ids and other outputs change nothing.
TEST_P(LogitsOutputs, OfRowsThatAreLeftOutAreZero) {
  const Problem problem{
      make_dot({6, 90, 10, DType::bf16, DType::f16, DType::f32}, DotFamily::normal, 4), {}, {0.7F}, 90};
  const std::vector<std::int64_t> ids = {3, -100, 5, 6, 89, 0};
  const std::vector<std::uint8_t> mask = {1, 1, 0, 1, 1, 0};
  const std::vector<std::int64_t> list = {0, 1, 3, 4};
  for (const DType dtype : dtypes) {
    for (const bool by_list : {false, true}) {
      Buffer found(6, 10, 70, 75, dtype);
      std::vector<float> logprobs(6), log_kept(6);
      std::vector<std::int64_t> rank(6), top(12);
      ScoreRequest request;
      request.hidden = problem.data.hidden_view();
      request.temperatures = problem.temperatures;
      request.token_ids = ids;
      if (by_list) {
        request.row_list = list;
        request.use_row_list = true;
      } else {
        request.row_mask = mask;
      }
      request.support.first_id = 20;
      request.support.last_id = 60;
      request.logprobs = logprobs.data();
      request.log_kept = log_kept.data();
      request.rank = rank.data();
      request.top_k = 2;
      request.top_k_ids = top.data();
      request.logits = found.output;
      ASSERT_TRUE(score(problem.head(), request, options()));
      EXPECT_EQ(found.bytes, expected_buffer(problem, found, {1, 0, 0, 1, 1, 0}).bytes) << dtype_name(dtype);
    }
  }
}

// Each shard writes its ids; near ties reach the exact sum through the shard's own weight.
TEST_P(LogitsOutputs, OfShards) {
  const Problem problem{
      make_dot({3, 64, 12, DType::f32, DType::f32, std::nullopt}, DotFamily::near_tie, 6), {}, {}, 64};
  for (const DType dtype : dtypes) {
    Buffer found(3, 5, 50, 50, dtype);
    ScoreRequest request;
    request.hidden = problem.data.hidden_view();
    request.logits = found.output;
    auto partial = PartialScore::begin(64, 12, {}, request, options());
    ASSERT_TRUE(partial);
    for (const auto& [first, last] : {std::pair{40, 64}, {0, 7}, {7, 40}}) {
      Shard shard{problem.head(), first};
      shard.head.weight.data = problem.data.weight.data() + static_cast<std::ptrdiff_t>(first) * 12 * 4;
      shard.head.weight.rows = shard.head.vocab_size = last - first;
      ASSERT_TRUE(partial->absorb(shard));
    }
    const auto finished = partial->finish_round();
    ASSERT_TRUE(finished && *finished);
    EXPECT_EQ(found.bytes, expected_buffer(problem, found).bytes) << dtype_name(dtype);
  }
}

ISOLOGIT_FOR_EACH_KERNEL(LogitsOutputs);

TEST(LogitsOutputErrors, NameWhatIsWrong) {
  std::vector<float> weight(40, 1), hidden(12, 1), out(64, 7), lse(3);
  Head head;
  head.weight = matrix(weight, 10, 4);
  head.vocab_size = 9;
  const auto message = [&](const LogitsOutput& logits) {
    ScoreRequest request;
    request.hidden = matrix(hidden, 3, 4);
    request.lse = lse.data();
    request.logits = logits;
    const auto report = score(head, request);
    return report ? std::string("no error") : report.error().message;
  };
  EXPECT_EQ(message({out.data(), DType::f32, 9, 0, 9}), "no error");
  EXPECT_EQ(message({out.data(), DType::f32, 9, 9, 0}), "no error");
  EXPECT_EQ(message({out.data(), DType::f32, 9, 1, 9}),
            "logits: 9 ids from 1 on; expected ids of the vocabulary [0, 9)");
  EXPECT_EQ(message({out.data(), DType::f32, 9, -1, 3}),
            "logits: 3 ids from -1 on; expected ids of the vocabulary [0, 9)");
  EXPECT_EQ(message({out.data(), DType::f32, 9, 0, -1}),
            "logits: -1 ids from 0 on; expected ids of the vocabulary [0, 9)");
  EXPECT_EQ(message({out.data(), DType::f32, 4, 0, 5}),
            "logits: a row stride of 4 elements for 3 rows of 5; expected at least 5, within the address space");
  EXPECT_EQ(message({out.data(), DType::f32, -5, 0, 5}),
            "logits: a row stride of -5 elements for 3 rows of 5; expected at least 5, within the address space");
  for (const std::int64_t far : {std::numeric_limits<std::int64_t>::max(), std::int64_t{1} << 59}) {
    EXPECT_NE(message({out.data(), DType::f32, far, 0, 5}).find("within the address space"), std::string::npos);
  }
  EXPECT_EQ(message({out.data(), static_cast<DType>(3), 9, 0, 5}),
            "logits: unknown dtype 3; expected bf16, f16 or f32");
  EXPECT_EQ(message({hidden.data() + 11, DType::bf16, 9, 0, 1}), "logits: the output buffer overlaps the input hidden");
  EXPECT_EQ(message({weight.data() + 39, DType::f16, 9, 0, 5}), "logits: the output buffer overlaps the input weight");
  EXPECT_EQ(message({lse.data() + 2, DType::f16, 2, 0, 2}), "lse: the output buffer overlaps that of logits");
  // The last row ends where its logits end, not where another row would begin.
  std::vector<float> tight(2 * 20 + 3 + 3);
  ScoreRequest request;
  request.hidden = matrix(hidden, 3, 4);
  request.logits = {tight.data(), DType::f32, 20, 0, 3};
  request.lse = tight.data() + 43;
  EXPECT_TRUE(score(head, request));
  request.lse = tight.data() + 42;
  EXPECT_FALSE(score(head, request));
}

}  // namespace
}  // namespace isologit::testing_score
