// Products of parts on the host, on models of what tensor cores do: within what parts.cuh proves of the exact sums, for
// numbers of all sizes, and the same bits whatever is made at a time. Then gradients of such operands.
#include <gtest/gtest.h>

#include "cuda/pair_sum.cuh"
#include "cuda/part_products.cuh"
#include "gradients.hpp"

namespace isologit::detail::cuda {
namespace {

constexpr Products kHopper = {.sum = TruncatedSums<16, 2>::sum};
constexpr Products kAmpere = {.sum = TruncatedSums<8, 1>::sum};
// As bad as fast.cuh allows.
float worst_sum(float c, const double* products, int /*row*/) {
  double exact = static_cast<double>(c);
  double magnitude = std::fabs(exact);
  for (int k = 0; k < 16; ++k) {
    exact += products[k];
    magnitude += std::fabs(products[k]);
  }
  return static_cast<float>(exact - 0.99 * kMmaError * magnitude);
}
constexpr Products kWorst = {.sum = worst_sum};

// dz [rows, depth], words as they are, and elements of bf16 [depth, cols].
struct Factors {
  int rows, depth, cols;
  std::vector<double> dz;
  std::vector<std::uint16_t> other;

  double element(int d, int k) const {
    return static_cast<double>(Bf16::value(other[static_cast<std::size_t>(d * cols + k)]));
  }
  double derivative(int row, int d) const { return dz[static_cast<std::size_t>(row * depth + d)]; }
};

template <class Dz, class Other>
Factors make_factors(int rows, int depth, int cols, Dz dz_of, Other other_of) {
  Factors made = {rows, depth, cols, {}, {}};
  for (int row = 0; row < rows; ++row) {
    for (int d = 0; d < depth; ++d) made.dz.push_back(from_words(word_of(dz_of(row, d)), 0));
  }
  for (int d = 0; d < depth; ++d) {
    for (int k = 0; k < cols; ++k) made.other.push_back(oracle::encode_bf16(static_cast<float>(other_of(d, k))));
  }
  return made;
}

// A number of either sign with an exponent from `least` to `most`.
double draw(oracle::Random& random, int least, int most) {
  const auto exponent = static_cast<int>(random.below(static_cast<std::uint64_t>(most - least + 1))) + least;
  const double x = std::ldexp(1.0 + static_cast<double>(random.below(1 << 20)) * 0x1p-20, exponent);
  return random.below(2) == 0 ? x : -x;
}

// The sums by the kernels, `step` of the depth at a time, of dz by rows or by depth.
template <bool BY_ROWS, bool FEW = false>
std::vector<double> sums_of(const Factors& f, const Products& products = kHopper, int step = 1 << 20,
                            bool aligned = true) {
  using Eight = HostLauncher::Block<8>;
  using Kernel = std::conditional_t<FEW, PartProducts<HostLauncher::Block<4>, BY_ROWS, 2>,
                                    PartProducts<HostLauncher::Block<12>, BY_ROWS, 4>>;
  HostLauncher launcher(products);
  const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
  const std::int64_t padded = round_up(f.rows, kPartGroup);
  std::vector<double> sums(size(f.rows * f.cols), -77.0);
  std::vector<Sixteen> other(size(f.depth * f.cols + 15) / 8);  // at multiples of 16 bytes, or one element further
  auto* const elements = reinterpret_cast<std::uint16_t*>(other.data()) + (aligned ? 0 : 1);
  std::memcpy(elements, f.other.data(), f.other.size() * 2);
  for (int first = 0; first < f.depth; first += step) {
    const int depth = std::min(step, f.depth - first);
    const int groups = (depth + kPartGroup - 1) / kPartGroup;
    std::vector<std::uint32_t> words;
    for (int i = 0; i < f.rows * depth; ++i) {
      const int row = BY_ROWS ? i / depth : i % f.rows;
      const int d = BY_ROWS ? i % depth : i / f.rows;
      words.push_back(word_of(f.derivative(row, first + d)));
    }
    std::vector<int> sizes(size(groups * kPartGroup), -5);
    std::vector<GroupRows> found(size(groups));
    const std::uint16_t* from = elements + first * f.cols;
    launcher.launch<Measure<Eight>>(
        groups * 8, 1, Measuring{from, f.cols, aligned, depth, f.cols, nullptr, sizes.data(), found.data()});
    std::vector<Sixteen> parts(size(padded * groups * kPartGroup / 4));
    std::vector<Sixteen> units(size(padded * groups / 2));
    const Parts to = {reinterpret_cast<std::uint32_t*>(parts.data()), groups * kPartGroup,
                      reinterpret_cast<double*>(units.data()), padded, sizes.data()};
    const int width = BY_ROWS ? depth : f.rows;
    const int height = BY_ROWS ? f.rows : depth;
    launcher.launch<MakeParts<Eight>>(
        static_cast<int>(round_up(height, kPartGroup)) / kPartGroup,
        static_cast<int>(round_up(width, kPartGroup)) / kPartGroup,
        PartMaking{words.data(), width, height, width, BY_ROWS ? to : Parts{}, BY_ROWS ? Parts{} : to});
    GradientSums of = {};
    of.rows = f.rows;
    of.cols = f.cols;
    of.sums = sums.data();
    of.begins = first == 0;
    launcher.launch<Kernel>((f.rows + Kernel::kRows - 1) / Kernel::kRows, (f.cols + Kernel::kCols - 1) / Kernel::kCols,
                            PartProduct{of, to.words, to.stride, to.units, to.unit_stride, found.data(), from, f.cols,
                                        aligned, depth, words.data(), width});
  }
  return sums;
}

// Which rows are multiplied by parts: all but those of zeros, and those that are too small or too great.
TEST(CudaParts, RowsAreMeasured) {
  const std::pair<double, int> rows[] = {{1.0, 0},
                                         {-1.5, 0},
                                         {0x1.fep-60, -60},
                                         {0.0, kZeroRow},
                                         {-0.0, kZeroRow},
                                         {std::ldexp(1.0, kLeastSize), kLeastSize},
                                         {std::ldexp(0x1.fep-1, kLeastSize), kOddRow},
                                         {0x1p-133, kOddRow},
                                         {std::ldexp(-0x1.fep0, kGreatestSize), kGreatestSize},
                                         {std::ldexp(1.0, kGreatestSize + 1), kOddRow},
                                         {0x1.fep127, kOddRow},
                                         {-HUGE_VAL, kOddRow},
                                         {std::nan(""), kOddRow}};
  constexpr int kCount = static_cast<int>(std::size(rows));
  for (const int place : {0, 7, 8, 300}) {
    std::vector<Sixteen> data(kCount * 304 / 8);
    auto* const elements = reinterpret_cast<std::uint16_t*>(data.data());
    for (int row = 0; row < kCount; ++row) {
      const auto each = std::fabs(rows[row].first) < 0x1p-100 ? 0.0F : 0x1p-131F;
      for (int k = 0; k < 304; ++k) elements[row * 304 + k] = oracle::encode_bf16(each);
      elements[row * 304 + place] = oracle::encode_bf16(static_cast<float>(rows[row].first));
    }
    for (const bool aligned : {true, false}) {
      HostLauncher launcher;
      std::vector<int> sizes(64, -5);
      GroupRows groups = {};
      launcher.launch<Measure<HostLauncher::Block<8>>>(
          8, 1, Measuring{elements, 304, aligned, kCount, 304, nullptr, sizes.data(), &groups});
      for (int row = 0; row < 64; ++row) {
        const int size = row < kCount ? rows[row].second : kZeroRow;
        EXPECT_EQ(sizes[static_cast<std::size_t>(row)], size) << row;
        EXPECT_EQ(groups.is_plain(row), size != kZeroRow && size != kOddRow) << row;
        EXPECT_EQ((groups.all_odd() >> row & 1) != 0, size == kOddRow) << row;
      }
    }
  }
}

// How far from the exact sums, as a part of what is proven, at most; 1000 where a sum is special and not this one.
double worst(const Factors& f, const std::vector<double>& sums) {
  constexpr double kPart = kPartBound - 0x1.8p-20;  // words are exact here
  double most = 0;
  std::vector<double> norms;
  for (int d = 0; d < f.depth; ++d) {
    double squares = 0;
    for (int k = 0; k < f.cols; ++k) squares += std::isfinite(f.element(d, k)) ? f.element(d, k) * f.element(d, k) : 0;
    norms.push_back(std::sqrt(squares));
  }
  for (int row = 0; row < f.rows; ++row) {
    double magnitude = 0;
    for (int d = 0; d < f.depth; ++d) magnitude += std::fabs(f.derivative(row, d)) * norms[static_cast<std::size_t>(d)];
    for (int k = 0; k < f.cols; ++k) {
      PairSum exact = empty_pair_sum();
      double plain = 0;
      for (int d = 0; d < f.depth; ++d) {
        add_product(exact, f.derivative(row, d) * f.element(d, k));
        plain += f.derivative(row, d) * f.element(d, k);
      }
      const double sum = sums[static_cast<std::size_t>(row * f.cols + k)];
      if (exact.specials != 0) {
        if (std::isnan(plain) ? !std::isnan(sum) : sum != plain) return 1000;
        continue;
      }
      const double off = std::fabs((sum - exact.s) - exact.e);
      if (off == 0) continue;
      const double part = off / (kPart * exact.m + 0x1p-23 * magnitude);
      if (!(part <= 1000)) return 1000;
      most = std::max(most, part);
    }
  }
  return most;
}

double worst_of_all(const Factors& f) {
  return std::max({worst(f, sums_of<true>(f)), worst(f, sums_of<true>(f, kAmpere)), worst(f, sums_of<false>(f))});
}

TEST(CudaParts, SumsAreWithinTheBound) {
  oracle::Random random(1);
  const auto near = [&](int, int) { return draw(random, -2, 1); };
  EXPECT_LE(worst_of_all(make_factors(5, 200, 24, near, near)), 1.0);
  EXPECT_LE(worst_of_all(make_factors(131, 65, 136, near, near)), 1.0);
  const auto wide = [&](int, int) { return draw(random, -30, 30); };
  EXPECT_LE(worst_of_all(make_factors(9, 130, 40, wide, wide)), 1.0);
  // One dz far above the others, as of an id that was picked.
  const auto picked = [&](int row, int d) { return draw(random, 0, 0) * (d == 7 * row ? 1.0 : 0x1p-17); };
  EXPECT_LE(worst_of_all(make_factors(9, 130, 40, picked, near)), 1.0);
  // Terms that cancel but for the last places.
  const auto twice = [&](int row, int d) { return (d % 2 == 0 ? 1.0 : -1.0) * (1.0 + 0.1 * (d / 2 % 7) + row); };
  const auto alike = [](int d, int k) { return 1.0 + 0.01 * (d / 2 % 50) + k; };
  EXPECT_LE(worst_of_all(make_factors(4, 256, 16, twice, alike)), 1.0);
}

// Of all numbers of 12 bits with others behind them, and where most is lost.
TEST(CudaParts, PartsAreWhatIsSplit) {
  HostLauncher launcher;
  oracle::Random random(7);
  std::vector<double> dz;
  for (int i = 0; i < 4096; ++i) {
    const auto bits = static_cast<double>(i) * 256 + static_cast<double>(random.below(256));
    dz.push_back((i % 3 == 0 ? -1 : 1) * std::ldexp(1.0 + bits * 0x1p-20, i % 7 - 10 * (i / 64)));
  }
  dz[0] = 1.0 + 0x1p-8 - 0x1p-17 - 0x1p-20;
  dz[1] = 1.0 + 0x1p-8 + 0x1p-16 - 0x1p-20;
  std::vector<std::uint32_t> words;
  for (const double x : dz) words.push_back(word_of(x));
  const std::vector<int> sizes(64, 3);
  std::vector<std::uint32_t> parts(2 * 4096);
  std::vector<double> units(2 * 64);
  const Parts rows = {parts.data(), 64, units.data(), 64, sizes.data()};
  const Parts cols = {parts.data() + 4096, 64, units.data() + 64, 64, sizes.data()};
  launcher.launch<MakeParts<HostLauncher::Block<8>>>(1, 1, PartMaking{words.data(), 64, 64, 64, rows, cols});
  for (std::size_t i = 0; i < 8192; ++i) {
    const std::size_t line = i / 64, d = i % 64;
    const double right = i < 4096 ? dz[i] : dz[d * 64 + line % 64];
    const auto part = [&](std::size_t lo) {
      return static_cast<double>(Bf16::value(parts[line * 64 + 32 * lo + d / 2] >> 16 * (d % 2) & 0xFFFFU));
    };
    const double unit = units[line];
    // In a column beside others that are up to 2^630 times as great nothing is left.
    const double allowed = std::max(std::fabs(right) * 0x1p-17, unit * 0x1p-134);
    EXPECT_LE(std::fabs(unit * (part(0) + part(1)) - right), allowed) << i;
    EXPECT_LE(std::fabs(part(1)), std::fabs(part(0)) * 0x1p-8) << i;
    EXPECT_LT(std::fabs(part(0)), 0x1p127) << i;
  }
}

// What both parts lose and what four multiplications of the great ones do adds up to nearly what is proven.
TEST(CudaParts, TheBoundIsNearWhatIsLost) {
  const auto half_lost = [](int, int d) { return d == 0 ? 1.0 + 0x1p-8 - 0x1p-17 - 0x1p-20 : 0.0; };
  const Factors f = make_factors(2, 128, 8, half_lost, [](int, int) { return 1.0; });
  const double found = worst(f, sums_of<true>(f, kWorst));
  EXPECT_LE(found, 1.0);
  EXPECT_GT(found, 0.85);
  // Chains are added in f64: in f32 most of what they lose would be seen.
  oracle::Random random(8);
  const auto near = [&](int, int) { return std::fabs(draw(random, -2, 1)); };
  const Factors many = make_factors(1, 2048, 8, near, near);
  EXPECT_LE(worst(many, sums_of<true>(many, kWorst)), 0.8);
}

// Neither small nor large rows on either side matter.
TEST(CudaParts, NumbersOfAllSizes) {
  oracle::Random random(2);
  for (const int size : {-900, -400, -130, 0, 130, 400}) {
    const auto dz = [&](int, int) { return draw(random, size - 3, size + 3); };
    for (const int other : {kLeastSize + 3, -60, 0, 60, kGreatestSize - 3}) {
      const Factors f = make_factors(3, 70, 16, dz, [&](int, int) { return draw(random, other - 3, other + 3); });
      EXPECT_LE(worst_of_all(f), 1.0) << size << ' ' << other;
    }
  }
  // Rows of the other operand of all sizes, with dz so that all products count.
  for (const int spread : {0, 40}) {
    std::vector<int> sizes;
    for (int d = 0; d < 130; ++d) {
      sizes.push_back(static_cast<int>(random.below(kGreatestSize - kLeastSize + 1)) + kLeastSize);
    }
    const auto of = [&](int d) { return sizes[static_cast<std::size_t>(d)]; };
    const auto dz = [&](int, int d) { return draw(random, -of(d) - spread, -of(d) + spread); };
    EXPECT_LE(worst_of_all(make_factors(5, 130, 16, dz, [&](int d, int) { return draw(random, of(d), of(d)); })), 1.0);
  }
}

// Products far below what 32 bits hold: nothing of them is seen, and nothing else is.
TEST(CudaParts, LeastNumbers) {
  const auto dz = [](int row, int) { return row == 0 ? 0x1p-1022 : row == 1 ? 0x1p-900 : 0.0; };
  const std::vector<double> sums = sums_of<true>(make_factors(3, 64, 8, dz, [](int, int) { return 0x1p-100; }));
  for (std::size_t k = 0; k < 16; ++k) EXPECT_LT(std::fabs(sums[k]), 0x1p-800);
  for (std::size_t k = 16; k < 24; ++k) EXPECT_EQ(sums[k], 0.0);
}

// A row of zeros, as a vocabulary that is filled up has, takes nothing from the others, however great its dz.
TEST(CudaParts, RowsOfZeros) {
  oracle::Random random(3);
  for (const double great : {1.0, 0x1p130, 0x1p400}) {
    const auto dz = [&](int, int d) { return d % 3 == 0 ? great : draw(random, -90, -80); };
    const auto other = [&](int d, int) { return d % 3 == 0 ? 0.0 : draw(random, -2, 2); };
    EXPECT_LE(worst_of_all(make_factors(4, 128, 16, dz, other)), 1.0) << great;
    const Factors zeros = make_factors(2, 64, 8, dz, [](int, int) { return -0.0; });
    for (const double sum : sums_of<true>(zeros)) EXPECT_EQ(sum, 0.0);
  }
}

// Elements that are not finite, and rows smaller or greater than parts can take.
TEST(CudaParts, OddRows) {
  oracle::Random random(4);
  const auto dz = [&](int row, int d) { return row == 2 && d % 2 == 0 ? 0.0 : draw(random, -4, 4); };
  for (const double odd : {HUGE_VAL, -HUGE_VAL, std::nan(""), 0x1.fep127, 0x1p-120, 0x1p-133}) {
    // The only ones of their columns, beside others of their columns, and with nothing else.
    for (const int every : {130, 37, 1}) {
      const auto other = [&](int d, int k) {
        if (d % every != every / 2) return draw(random, -2, 2);
        return std::isfinite(odd) ? odd : k == 5 ? odd : 1.0;
      };
      EXPECT_LE(worst_of_all(make_factors(4, 130, 16, dz, other)), 1.0) << odd << ' ' << every;
    }
  }
  // Beside them others count for what they are.
  const auto tiny = [](int d, int) { return d == 70 ? 0x1p-125 : d == 3 ? 0x1p120 : 1.0; };
  const auto small = [](int, int d) { return d == 70 ? 0x1p110 : d == 3 ? 0x1p-130 : 0x1.5p-20; };
  EXPECT_LE(worst_of_all(make_factors(2, 130, 8, small, tiny)), 1.0);
}

TEST(CudaParts, DerivativesThatAreNotFiniteMakeTheirRowNan) {
  oracle::Random random(5);
  for (const double special : {std::nan(""), HUGE_VAL}) {
    const auto dz = [&](int row, int d) { return row == 1 && d == 100 ? special : draw(random, -4, 4); };
    const Factors f = make_factors(3, 130, 8, dz, [&](int d, int) { return d == 100 ? 0.0 : draw(random, -2, 2); });
    const std::vector<double> sums = sums_of<true>(f);
    for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(std::isnan(sums[i]), i / 8 == 1) << i;
  }
}

TEST(CudaParts, WhatIsMadeAtATimeShowsInNoBit) {
  oracle::Random random(6);
  const auto dz = [&](int row, int) { return draw(random, -9 - row, 9 - row); };
  const auto other = [&](int d, int k) {
    return d % 71 == 20 ? 0x1p-125 : d % 50 == 3 ? (k == 5 ? HUGE_VAL : 2.0) : draw(random, -3, 3);
  };
  const Factors f = make_factors(130, 200, 136, dz, other);
  const std::vector<double> whole = sums_of<true>(f);
  const auto expect_whole = [&](const std::vector<double>& sums, const std::string& what) {
    ASSERT_EQ(sums.size(), whole.size()) << what;
    int different = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (bit_cast<std::uint64_t>(sums[i]) != bit_cast<std::uint64_t>(whole[i])) ++different;
    }
    EXPECT_EQ(different, 0) << what;
  };
  expect_whole(sums_of<true>(f, kHopper, 64), "64 of the depth");
  expect_whole(sums_of<true>(f, kHopper, 128), "128 of the depth");
  expect_whole(sums_of<true>(f, kHopper, 1 << 20, false), "unaligned");
  expect_whole(sums_of<true, true>(f), "tiles for few rows");
  expect_whole(sums_of<false>(f), "dz by depth");
  expect_whole(sums_of<false, true>(f, kHopper, 64), "all of it");
  Factors one = f;
  one.rows = 1;
  one.dz.assign(f.dz.begin() + 100 * 200, f.dz.begin() + 101 * 200);
  const std::vector<double> alone = sums_of<true, true>(one);
  for (std::size_t k = 0; k < 136; ++k) {
    EXPECT_EQ(bit_cast<std::uint64_t>(alone[k]), bit_cast<std::uint64_t>(whole[100 * 136 + k])) << k;
  }
}

// Gradients.

void set(std::vector<std::uint8_t>& raw, std::vector<double>& values, std::int64_t at, double x) {
  oracle::encode(DType::bf16, raw.data(), static_cast<std::size_t>(at), static_cast<float>(x));
  values[static_cast<std::size_t>(at)] = oracle::decode(DType::bf16, raw.data(), static_cast<std::size_t>(at));
}
void set_weight(Problem& problem, std::int64_t v, std::int64_t k, double x) {
  set(problem.data.weight, problem.data.weight_values, v * problem.cols() + k, x);
}
void set_hidden(Problem& problem, std::int64_t n, std::int64_t k, double x) {
  set(problem.data.hidden, problem.data.hidden_values, n * problem.cols() + k, x);
}

// dz of all ids, whatever the logits are.
Problem with_means(const oracle::DotShape& shape, std::uint64_t seed) {
  Problem problem = test::make_problem(shape, DotFamily::normal, seed, 2);
  problem.d_entropy.clear();
  oracle::Random random(seed + 7);
  for (std::int64_t n = 0; n < shape.rows; ++n) problem.d_mean_logits.push_back(static_cast<float>(random.normal()));
  return problem;
}

TEST(CudaParts, TinyAndHugeUpstreams) {
  Problem problem = test::make_problem({8, 150, 24}, DotFamily::normal, 31, 2);
  for (std::size_t n = 0; n < 8; ++n) {
    const float factor = n % 3 == 0 ? 1e-34F : n % 3 == 1 ? 1e37F : 1.0F;
    for (const std::size_t k : {2 * n, 2 * n + 1}) problem.d_logprobs[k] *= factor;
    problem.d_lse[n] *= factor;
    problem.d_entropy[n] *= factor;
  }
  expect_bounds(problem, "of rows");
  expect_bounds(problem, "of rows", {}, kAmpere);
}

TEST(CudaParts, FilledUpVocabulary) {
  Problem problem = test::make_problem({9, 140, 24}, DotFamily::normal, 32, 2);
  for (std::int64_t v = 100; v < 140; ++v) {
    for (std::int64_t k = 0; k < 24; ++k) set_weight(problem, v, k, 0.0);
  }
  expect_bounds(problem, "zeros");
}

TEST(CudaParts, OddOperands) {
  for (const double odd : {0x1p120, 0x1p110, 0x1p-120, HUGE_VAL, std::nan("")}) {
    const std::string what = std::to_string(odd);
    Problem problem = with_means({66, 70, 16}, 33);
    for (std::int64_t k = 0; k < 16; ++k) {
      if (std::isfinite(odd) || k == 3) set_weight(problem, 65, k, odd);
    }
    if (odd < 1) expect_bounds(problem, "weight " + what);  // else most of dz is not finite or not proven
    const Asked small = {.most_rows = 64, .most_columns = 64};
    expect_same(gradients_by_kernels(problem), gradients_by_kernels(problem, small), "weight " + what);
    problem = with_means({66, 70, 16}, 34);
    for (std::int64_t k = 0; k < 16; ++k) {
      if (std::isfinite(odd) || k == 3) set_hidden(problem, 64, k, odd);
    }
    expect_bounds(problem, "hidden " + what);
    expect_same(gradients_by_kernels(problem), gradients_by_kernels(problem, small), "hidden " + what);
    // A row that is not active is not looked at.
    problem.d_logprobs[128] = problem.d_logprobs[129] = problem.d_lse[64] = problem.d_mean_logits[64] = 0.0F;
    expect_bounds(problem, "not active " + what);
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
