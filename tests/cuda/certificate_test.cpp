// What the certificate and pairs of doubles say is right, and they say something of nearly all.
#include <gtest/gtest.h>

#include "cuda/accumulator.cuh"
#include "cuda/pair_sum.cuh"
#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;

PairSum pair_sum_of(const oracle::DotData& data, std::int64_t n, std::int64_t v) {
  PairSum sum = empty_pair_sum();
  for (std::int64_t k = 0; k < data.shape.cols; ++k) add_product(sum, data.hidden_row(n)[k] * data.weight_row(v)[k]);
  return sum;
}

// How many of the logits pairs of doubles leave open; those they do not are right.
std::int64_t left_open(const oracle::DotData& data) {
  std::int64_t open = 0;
  for (std::int64_t n = 0; n < data.shape.rows; ++n) {
    for (std::int64_t v = 0; v < data.shape.vocab; ++v) {
      const float z = settled(pair_sum_of(data, n, v), static_cast<int>(data.shape.cols));
      if (is_open(z)) {
        ++open;
        continue;
      }
      const float want =
          oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(data.shape.cols));
      EXPECT_EQ(oracle::bits_of(z), oracle::bits_of(want)) << n << ' ' << v;
    }
  }
  return open;
}

TEST(CudaPairSum, RightOrOpen) {
  for (const auto type : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto family : oracle::dot_families) left_open(oracle::make_dot({8, 60, 90, type, type}, family, 31));
  }
}

TEST(CudaPairSum, OfOrdinaryNumbersNothingStaysOpen) {
  for (const auto family : {DotFamily::normal, DotFamily::outliers, DotFamily::constant, DotFamily::specials}) {
    EXPECT_EQ(left_open(oracle::make_dot({8, 100, 500}, family, 32)), 0) << oracle::name_of(family);
  }
}

// 2^60 and what is left of it when it goes again: more than 106 bits.
TEST(CudaPairSum, PastTheirBitsTheyAreOpen) {
  PairSum sum = empty_pair_sum();
  for (const double term : {1.0 + 0x1p-24, 0x1p100, 0x1p-140, -0x1p100}) add_product(sum, term);
  EXPECT_TRUE(is_open(settled(sum, 4)));
}

TEST(CudaPairSum, RoundsASumOnce) {
  const double tie = 1.0 + 0x1p-24;
  EXPECT_EQ(round_sum(tie, 0.0), 1.0F);
  EXPECT_EQ(round_sum(tie, 0x1p-200), 1.0F + 0x1p-23F);
  EXPECT_EQ(round_sum(tie, -0x1p-200), 1.0F);
  EXPECT_EQ(round_sum(-tie, -0x1p-200), -1.0F - 0x1p-23F);
  EXPECT_EQ(round_sum(-tie, 0x1p-200), -1.0F);
  EXPECT_EQ(round_sum(1.0 + 0x3p-24, -0x1p-200), 1.0F + 0x1p-23F);
  EXPECT_EQ(round_sum(0x1p-150, 0x1p-300), 0x1p-149F);
  EXPECT_EQ(round_sum(0x1p-150, 0.0), 0.0F);
  EXPECT_EQ(round_sum(0x1p128 - 0x1p103, 0.0), HUGE_VALF);
  EXPECT_EQ(round_sum(0x1p128 - 0x1p103, -0x1p-100), 0x1.fffffep127F);
}

// The facts of a row, against its numbers: the norm is a bound and near, the lowest bit is one.
template <class E>
void expect_facts(DType type, DotFamily family) {
  const auto data = oracle::make_dot({1, 40, 300, DType::bf16, type}, family, 33);
  for (std::int64_t v = 0; v < 40; ++v) {
    Gathered gathered = gathered_nothing();
    long double squares = 0;
    int lowest = kNoBit;
    for (std::int64_t k = 0; k < 300; ++k) {
      const double w = data.weight_row(v)[k];
      gather(gathered, static_cast<float>(w));
      squares += static_cast<long double>(w) * static_cast<long double>(w);
      lowest = std::min(lowest, lowest_bit(w));
    }
    const RowFacts facts = facts_of<E>(gathered, 300);
    EXPECT_FALSE(static_cast<long double>(facts.norm) < std::sqrt(squares)) << v;
    EXPECT_LE(facts.lowest, lowest) << v;
    if (family == DotFamily::normal) {
      EXPECT_LT(static_cast<long double>(facts.norm), 1.001L * std::sqrt(squares)) << v;
      EXPECT_GE(facts.lowest, lowest - E::kFraction) << v;
    }
  }
}

TEST(CudaFacts, HoldOfEveryFamily) {
  for (const auto family : oracle::dot_families) {
    if (family == DotFamily::specials) continue;
    expect_facts<Bf16>(DType::bf16, family);
    expect_facts<F16>(DType::f16, family);
    expect_facts<F32>(DType::f32, family);
  }
}

// A sum that is off by nine tenths of what its additions may be off by, across a midpoint: it must not be believed.
TEST(CudaCertificate, DoubtsWhatTheBoundAllows) {
  constexpr int kSums = 4096;
  const RowFacts row = {32.0, -100, 0};
  const double bound = kSums * 0x1p-53 * row.norm * row.norm;
  for (int i = 0; i < 1000; ++i) {
    const double midpoint = (1.0 + (2 * i + 1) * 0x1p-24) * (i % 2 == 0 ? 0.25 : -0.25);
    for (const double side : {-1.0, 1.0}) {
      EXPECT_TRUE(is_open(certified(midpoint + side * 0.9 * bound, row, row, 0.0F, kSums))) << i;
      const double clear = midpoint + side * 0x1p-28;  // what is far from one is believed
      EXPECT_EQ(certified(clear, row, row, 0.0F, kSums), static_cast<float>(clear)) << i;
    }
  }
}

// Where the lowest bits say that nothing was rounded, ties are decided; where they say one bit less they are not.
TEST(CudaCertificate, BelievesTheLowestBit) {
  const double tie = 1.0 + 0x1p-24;
  const RowFacts hidden = {1024.0, -12, 0};
  EXPECT_EQ(certified(tie, hidden, {1024.0, -20, 0}, 0.0F, 100), 1.0F);  // 20 - (-32) = 52 bits
  EXPECT_TRUE(is_open(certified(tie, hidden, {1024.0, -21, 0}, 0.0F, 100)));
  EXPECT_TRUE(is_open(certified(tie, hidden, {1024.0, -20, 0}, 0x1p-40F, 100)));  // the bias has a lower one
  EXPECT_TRUE(is_open(certified(tie, hidden, {HUGE_VAL, -20, 0}, 0.0F, 100)));
  EXPECT_TRUE(is_open(certified(0.0, {0.0, kNoBit, 0}, {HUGE_VAL, -20, 0}, 0.0F, 100)));
  EXPECT_EQ(certified(0.0, {0.0, kNoBit, 0}, {3.0, -20, 0}, 0.0F, 100), 0.0F);
}

// Of a model's numbers less than one in 300 is left to be settled: without the lowest bit it would be one in 140.
TEST(CudaCertificate, LeavesLittleOpen) {
  const auto data = oracle::make_dot({8, 1500, 4096}, DotFamily::normal, 34);
  std::int64_t open = 0;
  HostLauncher launcher;
  launcher.before = [&](const std::type_info& kernel, const void* args) {
    if (kernel == typeid(Settle<HostLauncher::Block<8>, Bf16, false, true>)) {
      launcher.finish();
      const auto& p = *static_cast<const Product*>(args);
      for (std::int64_t i = 0; i < 8 * 1500; ++i) open += is_open_result(p.logits, p.logits_type, i) ? 1 : 0;
    }
    return true;
  };
  logits_by(launcher, data);
  EXPECT_GT(open, 0);
  EXPECT_LT(open, 40) << "of 12000";
}

}  // namespace
}  // namespace isologit::detail::cuda
