#include "oracle/sample.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "oracle/distribution.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// The row's ids in S with a logit above -inf, in the order of section 3.
std::vector<std::int64_t> finite_in_order(const Row& row, std::span<const float> z) {
  std::vector<std::int64_t> ids = row.top_k(static_cast<std::int64_t>(z.size()));
  std::erase_if(ids, [&](std::int64_t v) { return v < 0 || z[static_cast<std::size_t>(v)] == minus_infinity; });
  return ids;
}

// p >= min_p · p_max, that is gap <= -ln min_p. ln of a rational other than 1 is irrational: never equal.
bool passes_min_p(const Gap& gap, float min_p) {
  if (min_p == 0 || gap == Gap{}) return true;
  if (min_p == 1) return false;
  return decide([&](mpfr_prec_t precision) -> std::optional<bool> {
    const Interval slack = -log(Interval(mpq_class(min_p), precision)) - Interval(rational(gap), precision);
    if (slack.sign() == 0) return std::nullopt;
    return slack.sign() > 0;
  });
}

// How many of the ids, which are in order, the shortest prefix with at least top_p of their mass has.
std::size_t top_p_length(const std::vector<std::int64_t>& ids, std::span<const float> z, float top_p) {
  const auto gap_of = [&](std::size_t i) {
    return gap_between(z[static_cast<std::size_t>(ids[0])], z[static_cast<std::size_t>(ids[i])]);
  };
  if (top_p == 1) return ids.size();  // every one of them has a positive mass
  if (gap_of(ids.size() - 1) == Gap{}) {
    // All equal: the mass is a count. The least n with n >= top_p · size.
    const mpq_class wanted = mpq_class(top_p) * mpq_class(static_cast<unsigned long>(ids.size()));
    mpz_class n;
    mpz_cdiv_q(n.get_mpz_t(), wanted.get_num_mpz_t(), wanted.get_den_mpz_t());
    return n.get_ui();
  }
  // Two distinct gaps and 0 < top_p < 1: prefix mass - top_p · mass is not 0, by Lindemann–Weierstrass.
  return decide([&](mpfr_prec_t precision) -> std::optional<std::size_t> {
    std::vector<Interval> prefix{Interval(precision)};
    for (std::size_t i = 0; i < ids.size(); ++i) prefix.push_back(prefix.back() + exp_minus(gap_of(i), precision));
    const Interval wanted = Interval(mpq_class(top_p), precision) * prefix.back();
    for (std::size_t n = 1; n < prefix.size(); ++n) {
      const int sign = (prefix[n] - wanted).sign();
      if (sign > 0) return n;
      if (sign == 0) return std::nullopt;
    }
    return std::nullopt;
  });
}

// z - ln(-ln u).
Interval gumbel_key(float z, Words words, mpfr_prec_t precision) {
  mpz_class odd = words.r1;
  odd <<= 32;
  odd += words.r2;
  odd = 2 * odd + 1;  // u · 2^65
  mpq_class u(odd);
  mpq_div_2exp(u.get_mpq_t(), u.get_mpq_t(), 65);
  return Interval(mpq_class(z), precision) - log(-log(Interval(u, precision)));
}

std::int64_t gumbel_argmax(std::span<const float> z, std::vector<std::int64_t> ids, const DrawKey& key) {
  return decide([&](mpfr_prec_t precision) -> std::optional<std::int64_t> {
    std::vector<Interval> keys;
    for (std::int64_t v : ids) {
      keys.push_back(
          gumbel_key(z[static_cast<std::size_t>(v)], words_of(key, static_cast<std::uint32_t>(v)), precision));
    }
    const auto best = std::max_element(keys.begin(), keys.end(), [](const Interval& a, const Interval& b) {
      return mpfr_less_p(a.lo.get(), b.lo.get()) != 0;
    });
    std::vector<std::int64_t> contenders;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (mpfr_greaterequal_p(keys[i].hi.get(), best->lo.get()) != 0) contenders.push_back(ids[i]);
    }
    const auto same = [&](std::int64_t v) {
      const std::int64_t w = contenders.front();
      return z[static_cast<std::size_t>(v)] == z[static_cast<std::size_t>(w)] &&
             words_of(key, static_cast<std::uint32_t>(v)) == words_of(key, static_cast<std::uint32_t>(w));
    };
    if (std::all_of(contenders.begin(), contenders.end(), same)) {
      return *std::min_element(contenders.begin(), contenders.end());
    }
    ids = contenders;
    return std::nullopt;
  });
}

Sample special(const Row& row) { return {row.argmax(), quiet_nan(), quiet_nan(), quiet_nan()}; }

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

Words words_of(const DrawKey& key, std::uint32_t v) {
  const std::array<std::uint32_t, 2> seed{static_cast<std::uint32_t>(key.seed),
                                          static_cast<std::uint32_t>(key.seed >> 32)};
  std::array<std::uint32_t, 4> counter{v / 4, key.position, static_cast<std::uint32_t>(key.sequence),
                                       static_cast<std::uint32_t>(key.sequence >> 32)};
  const std::uint32_t r1 = philox4x32(counter, seed)[v % 4];
  counter[0] += 0x80000000U;
  return {r1, philox4x32(counter, seed)[v % 4]};
}

std::vector<std::uint8_t> cut_support(std::span<const float> z, std::span<const std::uint8_t> mask, const Cuts& cuts) {
  const Row row(z, mask);
  std::vector<std::int64_t> ids = finite_in_order(row, z);
  std::erase_if(ids, [&](std::int64_t v) {
    return !passes_min_p(gap_between(row.top(), z[static_cast<std::size_t>(v)]), cuts.min_p);
  });
  if (cuts.top_k > 0 && static_cast<std::size_t>(cuts.top_k) < ids.size()) {
    ids.resize(static_cast<std::size_t>(cuts.top_k));
  }
  ids.resize(top_p_length(ids, z, cuts.top_p));
  std::vector<std::uint8_t> kept(z.size(), 0);
  for (std::int64_t v : ids) kept[static_cast<std::size_t>(v)] = 1;
  return kept;
}

Sample sample(std::span<const float> z, std::span<const std::uint8_t> mask, const Cuts& cuts, const DrawKey& key) {
  const Row row(z, mask);
  if (row.kind() != RowKind::ordinary) return special(row);
  const std::vector<std::uint8_t> kept = cut_support(z, mask, cuts);
  const Row cut(z, kept);
  const std::int64_t id = gumbel_argmax(z, finite_in_order(cut, z), key);
  // The cut's share of S is its share of a vocabulary whose every id outside S has logit -inf.
  std::vector<float> only_support(z.begin(), z.end());
  for (std::size_t v = 0; v < z.size(); ++v) {
    if (!row.in_support(static_cast<std::int64_t>(v))) only_support[v] = minus_infinity;
  }
  return {id, row.logprob(id), cut.logprob(id), Row(only_support, kept).log_kept()};
}

Sample sample_greedy(std::span<const float> z, std::span<const std::uint8_t> mask) {
  const Row row(z, mask);
  if (row.kind() != RowKind::ordinary) return special(row);
  const std::int64_t id = row.argmax();
  return {id, row.logprob(id), row.logprob(id), 0.0F};
}

}  // namespace isologit::oracle
