// CONTRACT.md 3: what is said of a row's distribution, from its last logits z and the support S.
//
// Notation, throughout the oracle. Of the logits in S above -inf let top be the greatest, k the number equal to it,
// and d = top - z >= 0 the gap of each other one, which is exact. Then
//   Σ e^z = e^top · (k + ε),  ε = Σ e^-d over the others,
// so each result is m + δ: m rational and exact, δ an expression in k and ε that keeps its relative accuracy however
// small ε is, as ε is a sum of positive terms and never leaves k's side as a difference.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "oracle/interval.hpp"

namespace isologit::oracle {

// The exact difference of two f32 numbers as an unevaluated sum of doubles, hi being the rounded sum: so equal gaps
// have equal parts, and gaps are ordered as pairs are.
struct Gap {
  double hi = 0;
  double lo = 0;
  auto operator<=>(const Gap&) const = default;
};
Gap gap_between(float top, float z);
mpq_class rational(const Gap& gap);
// e^-gap.
Interval exp_minus(const Gap& gap, mpfr_prec_t precision);

// Which special row of section 3 a row is; the first that fits.
enum class RowKind { nan, none, plus_inf, ordinary };

// The sums over the others of an ordinary row.
struct Tail {
  Interval mass;     // ε = Σ e^-d
  Interval moment;   // Σ d e^-d
  Interval squares;  // Σ e^-2d
};

class Row {
 public:
  // A mask has one byte for each logit, not 0 where the id is in S; empty: S is the whole vocabulary.
  // Nothing is copied: the logits must outlive the row, the mask need not.
  explicit Row(std::span<const float> z, std::span<const std::uint8_t> mask = {});

  RowKind kind() const { return kind_; }
  std::int64_t support_size() const { return std::count(support_.begin(), support_.end(), 1); }
  bool in_support(std::int64_t t) const { return support_[static_cast<std::size_t>(t)] != 0; }

  float lse() const;
  float logprob(std::int64_t t) const;
  float entropy() const;
  float sum_p2() const;
  float log_kept() const;
  float mean_logits() const;

  std::int64_t argmax() const;
  std::int64_t rank(std::int64_t t) const;
  // The first count ids of S in the order of section 3; -1 past |S| and in a row with no logit above -inf.
  std::vector<std::int64_t> top_k(std::int64_t count) const;

  // For the gradient and the sampler, of ordinary rows.
  float top() const { return top_; }
  std::int64_t ties() const { return ties_; }           // k
  bool has_others() const { return !others_.empty(); }  // ε > 0
  const Tail& tail(mpfr_prec_t precision) const;
  Interval total(mpfr_prec_t precision) const;  // k + ε

 private:
  bool before(std::int64_t a, std::int64_t b) const;
  Interval log_total(mpfr_prec_t precision) const;  // ln (k + ε), relatively accurate also when k = 1

  std::span<const float> z_;
  std::vector<std::uint8_t> support_;
  RowKind kind_ = RowKind::none;
  float top_ = 0;
  std::int64_t ties_ = 0;
  std::vector<Gap> others_;
  mutable std::map<mpfr_prec_t, Tail> tails_;
};

}  // namespace isologit::oracle
