// Low-rank additions to the weight (CONTRACT.md 1): each kernel against the oracle.
#include <cmath>
#include <limits>
#include <string>

#include "score/kernel_logits.hpp"
#include "score/low_rank_problem.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using low_rank::make_problem;
using low_rank::Problem;

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

class LowRank : public KernelTest {
 protected:
  // Returns how many logits exact accumulation settled.
  std::int64_t expect_right(const Problem& problem, const std::string& what, std::int64_t block_rows = 0,
                            std::int64_t tile_vocab = 0) const {
    const DotData& data = problem.data;
    const KernelLogits found = kernel_logits(GetParam(), data.hidden_view(), data.weight_view(), data.bias_view(),
                                             block_rows, tile_vocab, problem.lora());
    for (std::int64_t n = 0; n < data.shape.rows; ++n) {
      const std::vector<oracle::Extended> factors = problem.factors(n);
      for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
        const float z = found.values[at(n * data.shape.vocab + v)];
        const float expected = problem.expected(n, v, factors);
        if (same_logit(z, expected)) continue;
        ADD_FAILURE() << what << ", logit " << n << ", " << v << ": " << std::hexfloat << z << "; expected "
                      << expected;
        return found.fallbacks;
      }
    }
    return found.fallbacks;
  }
};

bool has_ties(DotFamily family) { return family == DotFamily::near_tie || family == DotFamily::overflow_limit; }

TEST_P(LowRank, LogitsAreTheOraclesForEveryFamilyTypeRankAndScale) {
  constexpr double scales[] = {2.0, 1.0 / 3, 0.0, -0.0, 0x1p-1074, 0x1.5p-300, -0x1.fffffffffffffp1023, 0x1p900};
  constexpr std::int64_t ranks[] = {0, 1, 16, 17, 64};
  std::uint64_t seed = 0;
  for (const DotFamily family : oracle::dot_families) {
    for (const DotFamily factors : oracle::dot_families) {
      if (has_ties(factors)) continue;
      for (const std::int64_t rank : ranks) {
        ++seed;
        if (instrumented && rank > 16) continue;
        const auto type = [&](std::uint64_t shift) { return static_cast<DType>((seed / shift) % 3); };
        // The usual scale half the time.
        const double scale = seed % 2 == 0 ? scales[0] : scales[seed / 2 % std::size(scales)];
        const DotShape shape{static_cast<std::int64_t>(1 + seed % 4),
                             seed % 8 == 0 ? 70 : static_cast<std::int64_t>(1 + seed % 13),
                             static_cast<std::int64_t>(5 + (seed * 13) % 30),
                             type(1),
                             type(3),
                             seed % 3 == 0 ? std::optional<DType>(type(1)) : std::nullopt};
        const Problem problem = make_problem(shape, rank, type(5), type(7), family, factors, scale, seed);
        expect_right(problem, std::string(oracle::name_of(family)) + " and " + std::string(oracle::name_of(factors)) +
                                  " rank " + std::to_string(rank) + " scale " + std::to_string(scale));
      }
    }
  }
}

// The addition takes the base away, or all but a bit far below what f64 holds: b·a has the base's own terms.
TEST_P(LowRank, CancelsTheBaseToTheLastBit) {
  for (const double nudge : {0.0, 0x1p-120, -0x1p-120, 0x1p-149}) {
    const std::int64_t cols = 48;
    const DotShape shape{3, 66, cols, DType::bf16, DType::bf16, DType::f32};
    Problem problem = make_problem(shape, 2, DType::f32, DType::f32, DotFamily::normal, DotFamily::normal, -0.5, 7);
    // Every weight row is 2^-i times the first, b the same numbers, and a the first row and a nudge at one place.
    for (std::int64_t k = 0; k < cols; ++k) {
      problem.a.set(0, k, 2 * problem.data.weight_row(0)[k]);
      problem.a.set(1, k, k == 5 ? nudge : 0);
    }
    for (std::int64_t v = 0; v < shape.vocab; ++v) {
      const double factor = std::ldexp(1.0, -static_cast<int>(v % 8));
      problem.b.set(v, 0, factor);
      problem.b.set(v, 1, v % 3 == 0 ? factor : 0);
      for (std::int64_t k = 0; k < cols; ++k) {
        const double w = problem.data.weight_row(0)[k] * factor;
        oracle::encode(DType::bf16, problem.data.weight.data(), at(v * cols + k), static_cast<float>(w));
        problem.data.weight_values[at(v * cols + k)] = w;
      }
      oracle::encode(DType::f32, problem.data.bias.data(), at(v), 0);
      problem.data.bias_values[at(v)] = 0;
    }
    expect_right(problem, "nudge " + std::to_string(nudge));
  }
}

// Midpoints of two f32 numbers, and 2^-60 beside them, that base and addition make together: h is (1, 2^-30), w holds
// the leading bits, the addition the half, and a second factor the nudge.
TEST_P(LowRank, TiesAreMadeOfBaseAndAddition) {
  const std::int64_t cols = 6;
  const DotShape shape{1, 70, cols, DType::f32, DType::f32, std::nullopt};
  for (const double scale : {1.0, 0x1p-40, 3.0, 1.0 / 3}) {
    Problem problem = make_problem(shape, 2, DType::f32, DType::bf16, DotFamily::normal, DotFamily::normal, scale, 3);
    oracle::Random random(5);
    for (std::int64_t k = 0; k < cols; ++k) {
      const double h = k == 0 ? 1 : 0;
      oracle::encode(DType::f32, problem.data.hidden.data(), at(k), static_cast<float>(h));
      problem.data.hidden_values[at(k)] = h;
      problem.a.set(0, k, k == 0 ? 0x1p-1 / scale : 0);  // rounded to f32: with a scale of 3 a near tie by itself
      problem.a.set(1, k, k == 0 ? 0x1p-61 : 0);
    }
    for (std::int64_t v = 0; v < shape.vocab; ++v) {
      const double w = static_cast<double>((1 << 23) + random.between(0, (1 << 23) - 1));
      oracle::encode(DType::f32, problem.data.weight.data(), at(v * cols), static_cast<float>(w));
      problem.data.weight_values[at(v * cols)] = w;
      problem.b.set(v, 0, 1);
      problem.b.set(v, 1, static_cast<double>(v % 3 - 1));
    }
    const std::int64_t fallbacks = expect_right(problem, "scale " + std::to_string(scale));
    if (!is_reference()) {
      EXPECT_GT(fallbacks, 0);
    }
  }
}

// A fresh adapter's b is 0: the logits are the base's, and the exact sums of short numbers need no exact accumulation.
TEST_P(LowRank, OfZeroChangesNothingAndCostsNoFallback) {
  const DotShape shape{8, 70, 64, DType::bf16, DType::bf16, std::nullopt};
  Problem problem = make_problem(shape, 16, DType::f32, DType::f32, DotFamily::normal, DotFamily::normal, 2, 3);
  for (std::int64_t v = 0; v < shape.vocab; ++v) {
    for (std::int64_t j = 0; j < 16; ++j) problem.b.set(v, j, 0);
  }
  EXPECT_EQ(expect_right(problem, "b = 0"), 0);
}

TEST_P(LowRank, LogitsDoNotDependOnBlockOrTile) {
  for (const DotFamily family : {DotFamily::normal, DotFamily::specials}) {
    const DotShape shape{7, 70, 33, DType::bf16, DType::bf16, DType::bf16};
    const Problem problem = make_problem(shape, 5, DType::f32, DType::f16, family, family, 0.25, 5);
    for (const std::int64_t tile : {0, 1, 17}) {
      for (const std::int64_t block : {0, 1, 3}) expect_right(problem, "block and tile", block, tile);
    }
  }
}

// inf and NaN in each operand in turn, against zeros, each other, and a sum that is 0 by cancellation.
TEST_P(LowRank, SpecialValuesFollowTheContract) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr double values[] = {inf, -inf, std::numeric_limits<double>::quiet_NaN(), 0.0, 1.0};
  const DotShape shape{1, 5, 6, DType::f32, DType::f32, std::nullopt};
  for (const double in_a : values) {
    for (const double in_h : values) {
      for (const double scale : {0.0, 1.0, -0x1p-1000, 0x1p1000}) {
        Problem problem =
            make_problem(shape, 2, DType::f32, DType::f32, DotFamily::normal, DotFamily::normal, scale, 3);
        oracle::encode(DType::f32, problem.data.hidden.data(), 0, static_cast<float>(in_h));
        problem.data.hidden_values[0] = in_h;
        problem.a.set(0, 0, in_a);
        for (std::int64_t k = 0; k < 6; ++k) problem.a.set(1, k, 0);  // its factor is 0 where hidden is finite
        for (std::int64_t v = 0; v < 5; ++v) {
          problem.b.set(v, 0, values[v]);
          problem.b.set(v, 1, values[(v + 2) % 5]);
        }
        expect_right(problem, "a " + std::to_string(in_a) + " hidden " + std::to_string(in_h));
      }
    }
  }
}

ISOLOGIT_FOR_EACH_KERNEL(LowRank);

}  // namespace
}  // namespace isologit::testing_score
