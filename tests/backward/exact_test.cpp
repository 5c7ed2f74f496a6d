// `exact` gradients equal the oracle's, bit for bit, on every kernel.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

TEST(Exact, EveryFamily) {
  for (const DotFamily family : oracle::dot_families) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      const oracle::DotShape shape{5, 37, 11, dtype, dtype, DType::bf16};
      const Problem problem = make_problem(shape, family, 7 + static_cast<std::uint64_t>(dtype));
      expect_exact(problem, fmt::format("{} {}", name_of(family), dtype_name(dtype)));
    }
  }
}

TEST(Exact, MixedTypesAcrossChunksAndPanels) {
  // More ids than one chunk, more rows than one piece, more columns than one panel and none of them a multiple.
  expect_exact(make_problem({131, 261, 35, DType::bf16, DType::f32, {}}, DotFamily::normal, 3), "wide");
}

TEST(Exact, EachUpstreamAlone) {
  for (int kind = 0; kind < 3; ++kind) {
    Problem problem = make_problem({4, 30, 9, DType::f32, DType::bf16, {}}, DotFamily::normal, 11);
    if (kind != 0) problem.d_logprobs.clear();
    if (kind != 1) problem.d_lse.clear();
    if (kind != 2) problem.d_entropy.clear();
    expect_exact(problem, fmt::format("kind {}", kind));
  }
}

TEST(Exact, ManyIdsPerRow) {
  // 20 ids a row out of 12: duplicates are certain.
  expect_exact(make_problem({6, 12, 8, DType::bf16, DType::bf16, {}}, DotFamily::normal, 5, 20), "duplicates");
  expect_exact(make_problem({6, 300, 8, DType::bf16, DType::bf16, {}}, DotFamily::outliers, 6, 7), "many");
}

TEST(Exact, Transforms) {
  const isologit::Transforms all[] = {
      {true, 30.0F, ScaleKind::none, 1.0F},
      {false, 0.0F, ScaleKind::multiply, -0.37F},
      {true, 1.5F, ScaleKind::divide, 3.3F},
      {true, 0x1p-20F, ScaleKind::multiply, 0x1p22F},
      {true, 1.5F, ScaleKind::divide, 3.3F, TransformOrder::scale_first},
      {true, 1.5F, ScaleKind::multiply, -0.37F, TransformOrder::scale_first},
      {true, 0x1p20F, ScaleKind::multiply, 0x1p-125F, TransformOrder::scale_first},  // scaled logits underflow
      {true, 3.0F, ScaleKind::multiply, 0x1p126F, TransformOrder::scale_first},      // or overflow
  };
  for (const isologit::Transforms& transforms : all) {
    for (const DotFamily family : {DotFamily::normal, DotFamily::outliers, DotFamily::specials}) {
      Problem problem = make_problem({6, 40, 10, DType::bf16, DType::bf16, DType::f32}, family, 21, 3);
      problem.transforms = transforms;
      problem.temperatures = {0.7F};
      expect_exact(problem, fmt::format("{} cap {} scale {}", name_of(family), transforms.softcap, transforms.scale));
      problem.temperatures = {1.0F, 0.3F, 3.0F, 1e-3F, 1e3F, 1.0F / 3.0F};
      expect_exact(problem, "a temperature for each row");
    }
  }
}

TEST(Exact, UpstreamOfLogits) {
  const isologit::Transforms all[] = {
      {false, 2.0F, ScaleKind::divide, 3.0F},
      {true, 2.0F, ScaleKind::divide, 3.0F},
      {true, 2.0F, ScaleKind::divide, 3.0F, TransformOrder::scale_first},
  };
  for (const isologit::Transforms& transforms : all) {
    for (const DotFamily family : {DotFamily::normal, DotFamily::specials, DotFamily::zero_rows}) {
      Problem problem = make_problem({5, 50, 10, DType::bf16, DType::bf16, {}}, family, 31);
      problem.d_logprobs.clear();
      problem.d_lse.clear();
      problem.d_entropy.clear();
      problem.ids.clear();
      oracle::Random random(1);
      for (int i = 0; i < 250; ++i) {
        problem.d_logits.push_back(i / 50 == 2 || i % 7 == 0 ? 0.0F : static_cast<float>(random.normal()));
      }
      problem.transforms = transforms;
      problem.temperatures = {0.9F};
      expect_exact(problem, fmt::format("{} capped {} order {}", name_of(family), transforms.has_softcap,
                                        static_cast<int>(transforms.order)));
    }
  }
}

// Gradients that are sums of `terms`, over rows or over ids.
void expect_exact_sums(const std::vector<float>& terms, float factor) {
  const auto count = static_cast<std::int64_t>(terms.size());
  for (const bool over_rows : {false, true}) {
    Problem problem = make_problem({over_rows ? count : 1, over_rows ? 1 : count, 1, DType::f32, DType::f32, {}},
                                   DotFamily::constant, 51);
    auto& bytes = over_rows ? problem.data.hidden : problem.data.weight;
    auto& values = over_rows ? problem.data.hidden_values : problem.data.weight_values;
    for (std::size_t i = 0; i < terms.size(); ++i) oracle::encode(DType::f32, bytes.data(), i, factor);
    values.assign(terms.size(), static_cast<double>(factor));
    problem.ids.clear();
    problem.d_logprobs.clear();
    problem.d_lse.clear();
    problem.d_entropy.clear();
    problem.d_logits = terms;
    expect_exact(problem, fmt::format("over rows {}", over_rows));
  }
}

// Two doubles beside one another do not hold these sums: 2^-40 is lost beside 2^40, while 2^100 comes and goes.
TEST(Exact, CancellationBeyondTwoDoubles) {
  expect_exact_sums({0x1p60F, 0x1p0F, 0x1p-80F, -0x1p0F, -0x1p60F}, 0x1p40F);
}

// A double that adds these up stands between two floats: what it lost decides.
TEST(Exact, ChainsThatRoundToAMidpoint) {
  for (const float sign : {1.0F, -1.0F}) {
    expect_exact_sums({sign, sign * 0x1p-24F, 0x1p-60F}, 1);
    expect_exact_sums({sign, sign * 0x1p-24F, -0x1p-60F}, 1);
  }
}

// Enough elements that each wider arithmetic has its turn.
TEST(Exact, FallbacksAreTaken) {
  const Problem problem = make_problem({100, 1500, 4, DType::bf16, DType::bf16, {}}, DotFamily::normal, 61);
  BackwardOptions options;
  options.arithmetic = Arithmetic::exact;
  const Gradients gradients = run(problem, options);
  EXPECT_LT(gradients.report.derivative_fallbacks, 100 * 1500 / 10000);
  expect_same_bits(gradients, expect(problem).gradients, "with fallbacks");
  const Problem one = make_problem({1, 300, 40, DType::bf16, DType::bf16, {}}, DotFamily::normal, 62);
  const Gradients of_one = run(one, options);  // single products of 32 bits: one in 256 is a midpoint
  EXPECT_GT(of_one.report.sum_fallbacks, 0);
  expect_same_bits(of_one, expect(one).gradients, "single products");
}

TEST(Exact, RoundsOnceToTheTypeOfTheBuffer) {
  for (const DType output : {DType::bf16, DType::f16, DType::f32}) {
    for (const bool accumulate : {false, true}) {
      Problem problem = make_problem({9, 40, 12, DType::bf16, DType::bf16, {}}, DotFamily::normal, 41);
      problem.output = output;
      if (accumulate) problem.fill_old(42);
      expect_exact(problem, fmt::format("{} accumulate {}", dtype_name(output), accumulate));
    }
  }
}

// Logits are chosen one by one: hidden states are unit vectors of f32, so the weight holds them.
Problem from_logits(const std::vector<std::vector<float>>& logits) {
  const auto rows = static_cast<std::int64_t>(logits.size());
  const auto vocab = static_cast<std::int64_t>(logits[0].size());
  Problem problem;
  problem.data.shape = {rows, vocab, rows, DType::f32, DType::f32, {}};
  problem.data.hidden.resize(static_cast<std::size_t>(4 * rows * rows));
  problem.data.weight.resize(static_cast<std::size_t>(4 * vocab * rows));
  for (std::size_t n = 0; n < logits.size(); ++n) {
    oracle::encode(DType::f32, problem.data.hidden.data(), n * logits.size() + n, 1.0F);
    for (std::size_t v = 0; v < logits[n].size(); ++v) {
      oracle::encode(DType::f32, problem.data.weight.data(), v * logits.size() + n, logits[n][v]);
    }
  }
  problem.data.hidden_values =
      oracle::decode_all(DType::f32, problem.data.hidden.data(), logits.size() * logits.size());
  problem.data.weight_values =
      oracle::decode_all(DType::f32, problem.data.weight.data(), logits.size() * logits[0].size());
  return problem;
}

constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(Exact, AdversarialRows) {
  for (const oracle::RowFamily family : oracle::row_families) {
    if (family == oracle::RowFamily::all_minus_inf || family == oracle::RowFamily::plus_inf ||
        family == oracle::RowFamily::nan || family == oracle::RowFamily::one_finite) {
      continue;  // an infinite weight would make the other rows' logits NaN: one row at a time, below
    }
    for (const std::int64_t vocab : {1, 2, 19}) {
      std::vector<std::vector<float>> logits;
      for (std::uint64_t seed = 0; seed < 12; ++seed) logits.push_back(oracle::make_row(family, vocab, seed));
      Problem problem = from_logits(logits);
      oracle::Random random(9);
      problem.ids_per_row = 2;
      for (int i = 0; i < 24; ++i) {
        problem.ids.push_back(static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(vocab))));
        problem.d_logprobs.push_back(i % 3 == 0 ? -1.0F : static_cast<float>(random.normal()));
      }
      for (int i = 0; i < 12; ++i) problem.d_entropy.push_back(i % 2 == 0 ? 0.0F : 0.25F);
      problem.transforms = {false, 0.0F, ScaleKind::multiply, 1.5F};
      expect_exact(problem, fmt::format("{} of {}", name_of(family), vocab));
    }
  }
}

// Two equal tops share B = -(1 + x) but for e^-43: in f64 their dz are midpoints.
TEST(Exact, DerivativesBesideAMidpoint) {
  for (const float x : {0x1p-24F, 0x3p-24F}) {
    Problem problem = from_logits({{3, 3, -40}});
    problem.ids_per_row = 2;
    problem.ids = {2, 2};
    problem.d_logprobs = {1, x};
    expect_exact(problem, fmt::format("{}", x));
    BackwardOptions options;
    options.arithmetic = Arithmetic::exact;
    EXPECT_GE(run(problem, options).report.derivative_fallbacks, 2);
  }
}

TEST(Exact, SpecialRowsAlone) {
  for (const oracle::RowFamily family : {oracle::RowFamily::all_minus_inf, oracle::RowFamily::plus_inf,
                                         oracle::RowFamily::nan, oracle::RowFamily::one_finite}) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      Problem problem = from_logits({oracle::make_row(family, 9, seed)});
      problem.ids = {static_cast<std::int64_t>(seed)};
      problem.d_logprobs = {0.5F};
      problem.d_entropy = {2.0F};
      expect_exact(problem, fmt::format("{} {}", name_of(family), seed));
      problem.d_logprobs = {0.0F};
      problem.d_entropy = {-0.0F};
      expect_exact(problem, "without an upstream");
    }
  }
}

// m is a midpoint of two f32 numbers; a probability of e^-1000 or far less decides (CONTRACT.md 9).
TEST(Exact, VanishingTermsDecideMidpoints) {
  const float odd = 1.0F + 0x1p-23F;
  const float even = 1.0F + 0x3p-23F;
  for (const float far : {-1000.0F, -1e6F, -1e30F}) {
    for (const float a : {odd, even}) {
      for (const float b : {0.0F, odd, even, 3.0F}) {
        for (const float c : {0.0F, 1.0F, -1.0F}) {
          for (const std::int64_t id : {0, 1}) {
            if (far < -1000.0F && (b - a) * c < 0) continue;  // the oracle would need 1.4 million bits and more
            Problem problem = from_logits({{0.0F, far}});
            problem.ids = {id};
            problem.d_logprobs = {a};
            problem.d_lse = {b};
            problem.d_entropy = {c};
            problem.transforms = {false, 0.0F, ScaleKind::multiply, 1.5F};
            expect_exact(problem, fmt::format("far {} a {} b {} c {} id {}", far, a, b, c, id));
          }
        }
      }
    }
  }
  Problem capped = from_logits({{0x1p-100F}});
  capped.d_lse = {odd};
  capped.transforms = {true, 1.0F, ScaleKind::multiply, 1.5F};
  expect_exact(capped, "a softcap's slope of 1 - 2^-200");
}

// The same where the two vanishing terms pull to different sides, which the oracle has not the bits for. At the top, dz
// = B - (eB + c E) with E = d e: far out the entropy's term is d times the other, so that dz lies beyond B on the side
// of -c.
TEST(Exact, OpposedVanishingTermsDecideMidpoints) {
  for (const float far : {-0x1p51F, -1e30F, -3e38F}) {
    for (const float c : {1.0F, -1.0F, 0x1p-20F, -0x1p-20F}) {
      Problem problem = from_logits({{0.0F, far}});
      const float sign = c < 0 ? 1.0F : -1.0F;
      problem.ids = {1};
      problem.d_logprobs = {sign * -0x1p-24F};
      problem.d_lse = {sign};  // B = 1 + 2^-24 or minus that, a tie
      problem.d_entropy = {c};
      for (const std::string& kernel : runnable_kernels()) {
        BackwardOptions options;
        options.arithmetic = Arithmetic::exact;
        options.kernel = kernel;
        const Gradients gradients = run(problem, options);
        EXPECT_EQ(gradients.dbias[0], sign * (1.0F + 0x1p-23F)) << far << " " << c << " " << kernel;
        EXPECT_EQ(gradients.dbias[1], sign * -0x1p-24F) << far << " " << c << " " << kernel;
      }
    }
  }
}

// The sign of epsilon B + c E/s by hand. At the top dz = B - that, B = 1 + 2^-24 is a tie, and the other logits are so
// far below the top that no number holds their shares: B + c g decides, g the least gap, and where it is 0 the next
// gap.
TEST(Exact, OpposedVanishingTermsOfOneSize) {
  struct Case {
    std::vector<float> logits;
    float c;
    bool above;  // dz at the top is above the tie
  };
  const std::vector<Case> cases = {
      {{0.0F, -0x1p60F}, -0x1p-50F, true},
      {{0.0F, -0x1p60F}, -0x1p-70F, false},
      {{0.0F, -0x1p60F, -0x1p61F}, -0x1p-70F, false},
      {{0.0F, -0x1p61F, -0x1p60F, -0x1p60F}, -0x1.8p-60F, true},
      {{0.0F, -5e5F}, -0x1p-10F, true},
      {{0.0F, -5e5F, -6e5F}, -0x1p-30F, false},
      {{0x1p36F, -0x1p60F}, -0x1p-60F, false},
      {{0x1p36F, -0x1p60F, -0x1.8p60F}, -0x1p-60F, true},
      {{0x1p36F, -0x1.8p60F, -0x1.9p60F, -0x1p60F}, -0x1p-60F, true},
      {{0x1p36F, -0x1p60F, -0x1.8p61F}, -0x1p-60F, false},
  };
  for (const Case& one : cases) {
    Problem problem = from_logits({one.logits});
    problem.ids = {1};
    problem.d_logprobs = {-0x1p-24F};
    problem.d_lse = {1.0F};
    problem.d_entropy = {one.c};
    for (const std::string& kernel : runnable_kernels()) {
      BackwardOptions options;
      options.arithmetic = Arithmetic::exact;
      options.kernel = kernel;
      const Gradients gradients = run(problem, options);
      EXPECT_EQ(gradients.dbias[0], one.above ? 1.0F + 0x1p-23F : 1.0F)
          << one.logits[1] << " " << one.c << " " << kernel;
    }
  }
}

TEST(Exact, SaturatedSoftcap) {
  Problem problem = from_logits({{-infinity, infinity, 3e38F, 1.0F, -40.0F}});
  problem.ids = {1};
  problem.d_logprobs = {2.0F};
  problem.d_entropy = {1.0F};
  problem.transforms = {true, 30.0F, ScaleKind::none, 1.0F};
  expect_exact(problem, "softcap");
}

}  // namespace
}  // namespace isologit::test
