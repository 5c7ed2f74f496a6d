// The random numbers of a draw (CONTRACT.md 4), and the comparison of z + g, g = -ln(-ln u), of two ids: first in f64
// with a bound that leaves one or two ids of thousands, then in pairs of doubles.
#pragma once

#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

struct RandomWords {
  std::uint32_t word[4];

  ISOLOGIT_DEVICE std::uint32_t of(int i) const {  // by selections: an address would put them into memory
    return i < 2 ? (i == 0 ? word[0] : word[1]) : (i == 2 ? word[2] : word[3]);
  }
};

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, 2011); base/philox.hpp is the CPU's.
ISOLOGIT_DEVICE RandomWords philox(RandomWords counter, std::uint32_t key0, std::uint32_t key1) {
  ISOLOGIT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter.word[2];
    counter = {
        {static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(product0)}};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return counter;
}

struct DrawKey {
  std::uint64_t seed, sequence;
  std::uint32_t position;
};
// The words r1 and r2 of ids 4 block to 4 block + 3; r1 is the high half of what `bits_of` makes of them.
struct DrawWords {
  RandomWords first, second;

  ISOLOGIT_DEVICE std::uint64_t bits_of(int i) const { return std::uint64_t{first.of(i)} << 32 | second.of(i); }
};
ISOLOGIT_DEVICE DrawWords draw_words(const DrawKey& key, std::uint32_t block) {
  RandomWords counter = {
      {block, key.position, static_cast<std::uint32_t>(key.sequence), static_cast<std::uint32_t>(key.sequence >> 32)}};
  const auto key0 = static_cast<std::uint32_t>(key.seed);
  const auto key1 = static_cast<std::uint32_t>(key.seed >> 32);
  const RandomWords first = philox(counter, key0, key1);
  counter.word[0] += 0x80000000U;
  return {first, philox(counter, key0, key1)};
}

// g lies between -3.9 and 45.1: what lies so far below another logit never wins.
inline constexpr double kNeverWins = 49.0;
// What gumbel_near may be off by, generously: see there.
inline constexpr double kNearSlack = 0x1p-30;

// 2 atanh(s) of 0 <= |s| <= 1/3, by its series up to s^19: what follows is below 2^-35 of it.
ISOLOGIT_DEVICE double log_ratio_near(double s) {
  const double square = s * s;
  double sum = 1.0 / 19;
  sum = fused(sum, square, 1.0 / 17);
  sum = fused(sum, square, 1.0 / 15);
  sum = fused(sum, square, 1.0 / 13);
  sum = fused(sum, square, 1.0 / 11);
  sum = fused(sum, square, 1.0 / 9);
  sum = fused(sum, square, 1.0 / 7);
  sum = fused(sum, square, 1.0 / 5);
  sum = fused(sum, square, 1.0 / 3);
  return 2.0 * s * fused(sum, square, 1.0);
}
// ln x of normal x, within 2^-35 and, near 1, of itself.
ISOLOGIT_DEVICE double log_near(double x) {
  const auto bits = bit_cast<std::uint64_t>(x);
  int k = static_cast<int>(bits >> 52) - 1023;
  double m = bit_cast<double>((bits & 0xFFFFFFFFFFFFFU) | 0x3FF0000000000000U);
  if (m > 1.41421356) {
    m *= 0.5;
    ++k;
  }
  return fused(static_cast<double>(k), 0.6931471805599453, log_ratio_near((m - 1.0) / (m + 1.0)));
}
// g of u = (bits + 1/2) 2^-64, within 2^-33: -ln u is within 2^-34 of itself, from 1 - u where u is near 1.
ISOLOGIT_DEVICE double gumbel_near(std::uint64_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-64;
  const double complement = (static_cast<double>(~bits) + 0.5) * 0x1p-64;
  const double t = complement <= 0.5 ? log_ratio_near(complement / (2.0 - complement)) : -log_near(u);
  return -log_near(t);
}

// (bits + 1/2) 2^-64, exactly.
ISOLOGIT_DEVICE Pair uniform(std::uint64_t bits) {
  return sum_of(static_cast<double>(bits >> 32) * 0x1p-32,
                (static_cast<double>(static_cast<std::uint32_t>(bits)) + 0.5) * 0x1p-64);
}
// g within 2^-88, or NaN: t = -ln u = ln(1 + (1 - u) / u) is within 2^-94 of itself, and so is the ratio of t and 1,
// from above 1, of which g is the logarithm.
ISOLOGIT_DEVICE Pair gumbel(std::uint64_t bits) {
  const Pair one = {1.0, 0.0};
  const Pair t = log_one_plus(divide(uniform(~bits), uniform(bits)));
  const bool above = t.hi > 1.0 || (t.hi == 1.0 && t.lo >= 0.0);
  const Pair beyond = add(above ? t : one, negative(above ? one : t));
  if (beyond.hi == 0.0) return {0.0, 0.0};
  const Pair g = log_one_plus(divide(beyond, above ? one : t));
  return above ? negative(g) : g;
}

// The id with the greatest z + g of some; open: another one was too near to tell.
struct Contender {
  Pair gumbel;
  float z;
  int id;
  std::uint64_t bits;
  std::uint32_t open, unused;
};
inline constexpr int kNobody = -1;
ISOLOGIT_DEVICE Contender nobody() { return {{0.0, 0.0}, 0.0F, kNobody, 0, 0, 0}; }

// Of equal z and u the lowest id. z - z' is exact, so that of great logits g still counts.
ISOLOGIT_DEVICE void merge(Contender& to, const Contender& from) {
  if (from.id == kNobody) return;
  bool takes = to.id == kNobody;
  std::uint32_t open = 0;
  if (!takes) {
    const Pair more =
        add(sum_of(static_cast<double>(from.z), -static_cast<double>(to.z)), add(from.gumbel, negative(to.gumbel)));
    const bool alike = from.z == to.z && from.bits == to.bits;
    takes = alike ? from.id < to.id : more.hi > 0.0;
    const bool told = fabs(more.hi) > 0x1p-86;  // not of NaN
    open = told ? 0 : alike ? to.open | from.open : 1;
  }
  if (takes) to = from;
  to.open |= open;
}

}  // namespace isologit::detail::cuda
