// The fast arithmetic on the host, on models of what tensor cores do: within its bound of the real sum, and the same
// bits for any number of rows; what is worse than the bound allows is refused by the self-test.
#include "cuda/fast.cuh"

#include <gtest/gtest.h>

#include <array>

#include "cuda/wgmma_self_test.cuh"
#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotData;
using oracle::DotFamily;

using Sixteens = TruncatedSums<16, 2>;  // sm_90
constexpr Products kHopper = {.sum = Sixteens::sum};
constexpr Products kAmpere = {.sum = TruncatedSums<8, 1>::sum};
// Sums of f32 to nearest, one after the other: better than any tensor core.
constexpr Products kRounding = {.sum = [](float c, const double* products, int) {
  double s = static_cast<double>(c);
  for (int k = 0; k < 16; ++k) s = static_cast<double>(static_cast<float>(s + products[k]));
  return static_cast<float>(s);
}};
// With 3 bits fewer than f32 has; with sums kept in f16's 11 bits.
constexpr Products kShort = {.sum = TruncatedSums<16, -3>::sum};
constexpr Products kCoarse = {.sum = TruncatedSums<16, -6>::sum};
constexpr Products kHalfSums = {
    .sum = [](float c, const double* products, int) { return without_bits(Sixteens::sum(c, products), 13); }};
constexpr Products kFlushing = {.sum = [](float c, const double* products, int) {
  double kept[16];
  for (int k = 0; k < 16; ++k) kept[k] = std::fabs(products[k]) < 0x1p-60 ? 0.0 : products[k];
  return Sixteens::sum(c, kept);
}};
constexpr Products kByPlace = {.sum = [](float c, const double* products, int row) {
  const float right = Sixteens::sum(c, products);
  return row == 15 ? std::nextafterf(right, 0.0F) : right;
}};

template <class E>
std::uint32_t broken_sums(const Products& products) {
  using Kernel = FastSelfTest<HostLauncher::Block<4>, E>;
  HostLauncher launcher(products);
  std::uint32_t broken = 0;
  launcher.launch<Kernel>(Kernel::kKinds, 1, SelfTesting{&broken});
  return broken;
}

TEST(CudaFast, TensorCoresPassTheSelfTest) {
  EXPECT_EQ(broken_sums<Bf16>(kHopper), 0U);
  EXPECT_EQ(broken_sums<F16>(kHopper), 0U);
  EXPECT_EQ(broken_sums<Bf16>(kAmpere), 0U);
  EXPECT_EQ(broken_sums<F16>(kAmpere), 0U);
  EXPECT_EQ(broken_sums<Bf16>(kRounding), 0U);
}

TEST(CudaFast, WorseOnesAreRefused) {
  EXPECT_GT(broken_sums<Bf16>(kShort), 0U);
  EXPECT_GT(broken_sums<F16>(kShort), 0U);
  EXPECT_GT(broken_sums<Bf16>(kCoarse), 0U);
  EXPECT_GT(broken_sums<Bf16>(kHalfSums), 0U);
  EXPECT_GT(broken_sums<Bf16>(kFlushing), 0U);
  EXPECT_GT(broken_sums<Bf16>(kByPlace), 0U);
}

std::vector<float> fast_logits(const Products& products, const DotData& data, const Layout& layout = {},
                               bool wgmma = false) {
  HostLauncher launcher(products);
  return logits_by(launcher, data, layout, DType::f32, true, wgmma);
}

// How far from the real sums, as a part of the bound, at most; a NaN or an infinity where none is expected is 1000.
double worst(const DotData& data, const std::vector<float>& logits) {
  double most = 0;
  std::size_t at = 0;
  for (std::int64_t n = 0; n < data.shape.rows; ++n) {
    for (std::int64_t v = 0; v < data.shape.vocab; ++v, ++at) {
      PairSum exact = empty_pair_sum();
      for (std::int64_t k = 0; k < data.shape.cols; ++k) {
        add_product(exact, data.hidden_row(n)[k] * data.weight_row(v)[k]);
      }
      add_product(exact, data.bias_of(v));
      const double z = static_cast<double>(logits[at]);
      if (exact.specials != 0) {
        const float want = settled(exact, static_cast<int>(data.shape.cols));
        if (oracle::bits_of(want) != oracle::bits_of(logits[at])) most = 1000;
        continue;
      }
      if (exact.m > 0x1p127) continue;  // f32 sums may overflow
      const double off = std::fabs((z - exact.s) - exact.e);
      const double part = off / fast_bound(data.shape.cols, exact.m);
      most = part > most || part != part ? (part == part ? part : 1000) : most;
    }
  }
  return most;
}

TEST(CudaFast, EveryFamilyIsWithinTheBound) {
  for (const DType type : {DType::bf16, DType::f16}) {
    for (const auto family : oracle::dot_families) {
      for (const std::int64_t rows : {1, 12, 24, 70}) {
        const DotData data = oracle::make_dot({rows, 37, 328, type, type, DType::f32}, family, 51);
        EXPECT_LE(worst(data, fast_logits(kHopper, data)), 1.0) << oracle::name_of(family) << ' ' << rows;
        EXPECT_LE(worst(data, fast_logits(kAmpere, data)), 1.0) << oracle::name_of(family) << ' ' << rows;
      }
    }
  }
}

// Terms of one sign, which cutting off makes smaller every time: the bound must be needed, and hold.
TEST(CudaFast, TermsOfOneSign) {
  DotData data = oracle::make_dot({4, 24, 4096}, DotFamily::normal, 52);
  const auto turn = [](std::vector<std::uint8_t>& raw, std::vector<double>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = std::fabs(values[i]);
      oracle::encode(DType::bf16, raw.data(), i, static_cast<float>(values[i]));
    }
  };
  turn(data.hidden, data.hidden_values);
  turn(data.weight, data.weight_values);
  EXPECT_LE(worst(data, fast_logits(kHopper, data)), 1.0);
  EXPECT_GT(worst(data, fast_logits(kHopper, data)), 0.02);
  EXPECT_GT(worst(data, fast_logits(kCoarse, data)), 1.0);  // as the self-test refuses
}

TEST(CudaFast, RowsDoNotDependOnOthers) {
  const DotData data = oracle::make_dot({70, 150, 200, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 53);
  const std::vector<float> all = fast_logits(kHopper, data);
  for (const std::int64_t rows : {1, 8, 9, 16, 17, 32, 33, 64, 65}) {
    DotData some = data;
    some.shape.rows = rows;
    const std::vector<float> found = fast_logits(kHopper, some);
    EXPECT_EQ(count_different(found, {all.begin(), all.begin() + rows * 150}), 0) << rows;
    EXPECT_EQ(count_different(fast_logits(kHopper, some, {3, 1}), found), 0) << rows << " unaligned";
  }
}

// Bits of wgmma's sums that are not those of mma.sync: blocks of 8 products, as good as the bound asks; one bit less; a
// last place in one row of 16; infinities where the others are cut to the greatest number.
constexpr Products kInEights = {.wgmma_sum = TruncatedSums<8, 2>::sum};
constexpr Products kOneBitLess = {.wgmma_sum = TruncatedSums<16, 1>::sum};
constexpr Products kRoundedByWgmma = {.wgmma_sum = kRounding.sum};
constexpr Products kOneRow = {.wgmma_sum = [](float c, const double* products, int row) {
  const float right = Sixteens::sum(c, products);
  return row == 13 ? std::nextafterf(right, 0.0F) : right;
}};
constexpr Products kOverflowing = {.wgmma_sum = [](float c, const double* products, int) {
  const float right = Sixteens::sum(c, products);
  return std::fabs(right) == 0x1.fffffep127F ? std::copysign(HUGE_VALF, right) : right;
}};

template <class E>
std::uint32_t different_chains(const Products& products) {
  using Kernel = FastWgmmaSelfTest<HostLauncher::Block<4>, E>;
  HostLauncher launcher(products);
  std::uint32_t broken = 0;
  launcher.launch<Kernel>(Kernel::kKinds, 2, SelfTesting{&broken});
  return broken;
}

TEST(CudaFast, WgmmaIsUsedWhereItsBitsAreThoseOfMma) {
  EXPECT_EQ(different_chains<Bf16>(kHopper), 0U);
  EXPECT_EQ(different_chains<F16>(kHopper), 0U);
  EXPECT_GT(different_chains<Bf16>(kInEights), 0U);
  EXPECT_GT(different_chains<F16>(kInEights), 0U);
  EXPECT_GT(different_chains<Bf16>(kOneBitLess), 0U);
  EXPECT_GT(different_chains<F16>(kOneBitLess), 0U);
  EXPECT_GT(different_chains<Bf16>(kRoundedByWgmma), 0U);
  EXPECT_GT(different_chains<Bf16>(kOneRow), 0U);
  EXPECT_GT(different_chains<Bf16>(kOverflowing), 0U);
}

// By wgmma the same bits, where it sums as mma.sync does: both types, rows and vocabularies that fill no tile, depths
// that are no multiple of a stage or of the stages of a turn, and results that are no number.
TEST(CudaFast, WgmmaHasTheSameBits) {
  for (const DType type : {DType::bf16, DType::f16}) {
    for (const auto& [rows, vocab, depth] : {std::array{65, 37, 8}, {70, 140, 200}, {129, 33, 72}, {65, 20, 1032}}) {
      for (const auto family : {DotFamily::normal, DotFamily::specials}) {
        const DotData data = oracle::make_dot({rows, vocab, depth, type, type, DType::f32}, family, 54);
        EXPECT_EQ(count_different(fast_logits(kHopper, data, {}, true), fast_logits(kHopper, data)), 0)
            << describe(data.shape) << oracle::name_of(family);
      }
    }
  }
  const DotData data = oracle::make_dot({65, 9, 37, DType::bf16, DType::bf16, DType::f32}, DotFamily::normal, 55);
  EXPECT_EQ(count_different(fast_logits(kHopper, data, {3, 1}, true), fast_logits(kHopper, data, {3, 1})), 0);
}

}  // namespace
}  // namespace isologit::detail::cuda
