#include "oracle/distribution.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// RN32(m + delta(precision)), the precision as great as it takes.
template <class Delta>
float settle(const mpq_class& m, int sign, Delta delta) {
  return decide([&](mpfr_prec_t precision) -> std::optional<float> {
    const auto rounded = round_sum(m, delta(precision), sign);
    if (!rounded) return std::nullopt;
    return static_cast<float>(*rounded);
  });
}

// Σ c e^-g with distinct gaps g and integers c != 0, as e^-g0 times a factor of which the sign is known whenever the
// interval tells it, even if e^-g0 underflows. Nonzero, by Lindemann–Weierstrass, unless there is no term.
struct SignedSum {
  Interval value;
  int sign;
};
SignedSum sum_terms(const std::map<Gap, std::int64_t>& terms, mpfr_prec_t precision) {
  const mpq_class least = rational(terms.begin()->first);
  Interval factor(precision);
  for (const auto& [gap, count] : terms) {
    // Exact in 320 bits: multiples of 2^-149 below 2^130.
    const Interval beyond(rational(gap) - least, 320);
    Interval wide(precision);
    mpfr_neg(wide.lo.get(), beyond.lo.get(), MPFR_RNDD);
    mpfr_neg(wide.hi.get(), beyond.lo.get(), MPFR_RNDU);
    factor = factor + Interval(count, precision) * exp(wide);
  }
  return {exp(Interval(-least, std::max<mpfr_prec_t>(precision, 320))) * factor, factor.sign()};
}

}  // namespace

Gap gap_between(float top, float z) {
  // Knuth's two-sum, exact in double, where nothing here can overflow or underflow.
  const double a = static_cast<double>(top);
  const double b = -static_cast<double>(z);
  const double hi = a + b;
  const double b_part = hi - a;
  const double lo = (a - (hi - b_part)) + (b - b_part);
  return {hi, lo};
}

mpq_class rational(const Gap& gap) { return mpq_class(gap.hi) + mpq_class(gap.lo); }

Interval exp_minus(const Gap& gap, mpfr_prec_t precision) {
  Real exponent(gap.lo == 0 ? 53 : 320);
  mpfr_set_d(exponent.get(), -gap.hi, MPFR_RNDN);
  mpfr_sub_d(exponent.get(), exponent.get(), gap.lo, MPFR_RNDN);  // exact: multiples of 2^-149 below 2^130
  Interval result(precision);
  // e^-gap is irrational for a gap other than 0, so rounding down is strict and the next number up is above.
  const int inexact = mpfr_exp(result.lo.get(), exponent.get(), MPFR_RNDD);
  mpfr_set(result.hi.get(), result.lo.get(), MPFR_RNDU);
  if (inexact != 0) mpfr_nextabove(result.hi.get());
  return result;
}

Row::Row(std::span<const float> z, std::span<const std::uint8_t> mask) : z_(z), support_(mask.begin(), mask.end()) {
  if (mask.empty()) support_.assign(z.size(), 1);
  bool has_nan = false;
  top_ = -infinity;
  for (std::size_t v = 0; v < z.size(); ++v) {
    if (support_[v] == 0) continue;
    has_nan = has_nan || std::isnan(z[v]);
    if (z[v] > top_) top_ = z[v];
  }
  kind_ = has_nan             ? RowKind::nan
          : top_ == -infinity ? RowKind::none
          : top_ == infinity  ? RowKind::plus_inf
                              : RowKind::ordinary;
  if (kind_ != RowKind::ordinary) return;
  for (std::size_t v = 0; v < z.size(); ++v) {
    if (support_[v] == 0 || z[v] == -infinity) continue;
    if (z[v] == top_) {
      ++ties_;
    } else {
      others_.push_back(gap_between(top_, z[v]));
    }
  }
}

const Tail& Row::tail(mpfr_prec_t precision) const {
  const auto found = tails_.find(precision);
  if (found != tails_.end()) return found->second;
  Tail sums{Interval(precision), Interval(precision), Interval(precision)};
  Real term(precision);
  for (const Gap& gap : others_) {
    const Interval e = exp_minus(gap, precision);
    mpfr_add(sums.mass.lo.get(), sums.mass.lo.get(), e.lo.get(), MPFR_RNDD);
    mpfr_add(sums.mass.hi.get(), sums.mass.hi.get(), e.hi.get(), MPFR_RNDU);

    mpfr_sqr(term.get(), e.lo.get(), MPFR_RNDD);
    mpfr_add(sums.squares.lo.get(), sums.squares.lo.get(), term.get(), MPFR_RNDD);
    mpfr_sqr(term.get(), e.hi.get(), MPFR_RNDU);
    mpfr_add(sums.squares.hi.get(), sums.squares.hi.get(), term.get(), MPFR_RNDU);

    // The gap is hi + lo, lo a small correction of either sign: two products, each rounded outwards.
    mpfr_mul_d(term.get(), e.lo.get(), gap.hi, MPFR_RNDD);
    mpfr_add(sums.moment.lo.get(), sums.moment.lo.get(), term.get(), MPFR_RNDD);
    mpfr_mul_d(term.get(), e.hi.get(), gap.hi, MPFR_RNDU);
    mpfr_add(sums.moment.hi.get(), sums.moment.hi.get(), term.get(), MPFR_RNDU);
    if (gap.lo != 0) {
      mpfr_mul_d(term.get(), gap.lo > 0 ? e.lo.get() : e.hi.get(), gap.lo, MPFR_RNDD);
      mpfr_add(sums.moment.lo.get(), sums.moment.lo.get(), term.get(), MPFR_RNDD);
      mpfr_mul_d(term.get(), gap.lo > 0 ? e.hi.get() : e.lo.get(), gap.lo, MPFR_RNDU);
      mpfr_add(sums.moment.hi.get(), sums.moment.hi.get(), term.get(), MPFR_RNDU);
    }
  }
  return tails_.emplace(precision, std::move(sums)).first->second;
}

Interval Row::total(mpfr_prec_t precision) const { return Interval(ties_, precision) + tail(precision).mass; }

Interval Row::log_total(mpfr_prec_t precision) const {
  return ties_ == 1 ? log1p(tail(precision).mass) : log(total(precision));
}

float Row::lse() const {
  switch (kind_) {
    case RowKind::nan: return quiet_nan();
    case RowKind::none: return -infinity;
    case RowKind::plus_inf: return infinity;
    case RowKind::ordinary: break;
  }
  if (ties_ == 1 && others_.empty()) return rn32(mpq_class(top_));
  return settle(mpq_class(top_), 1, [&](mpfr_prec_t precision) { return log_total(precision); });
}

float Row::logprob(std::int64_t t) const {
  if (kind_ != RowKind::ordinary) return quiet_nan();
  const float z = z_[static_cast<std::size_t>(t)];
  if (!in_support(t) || z == -infinity) return -infinity;
  const mpq_class m = mpq_class(z) - mpq_class(top_);
  if (ties_ == 1 && others_.empty()) return rn32(m);
  return settle(m, -1, [&](mpfr_prec_t precision) { return -log_total(precision); });
}

float Row::entropy() const {
  if (kind_ != RowKind::ordinary) return quiet_nan();
  if (ties_ == 1 && others_.empty()) return 0.0F;
  // -Σ p ln p = Σ p (ln total + d) = ln total + Σ d e^-d / total.
  return settle(
      0, 1, [&](mpfr_prec_t precision) { return log_total(precision) + tail(precision).moment / total(precision); });
}

float Row::sum_p2() const {
  if (kind_ != RowKind::ordinary) return quiet_nan();
  const mpq_class k(ties_);
  if (others_.empty()) return rn32(1 / k);
  // (k + q) / (k + ε)² = 1/k + (k q - 2 k ε - ε²) / (k (k + ε)²), q = Σ e^-2d < ε: below 1/k.
  return settle(1 / k, -1, [&](mpfr_prec_t precision) {
    const Interval count(k, precision);
    const Interval& mass = tail(precision).mass;
    const Interval sum = total(precision);
    return (count * (tail(precision).squares - mass - mass) - mass * mass) / (count * sum * sum);
  });
}

float Row::log_kept() const {
  if (kind_ != RowKind::ordinary) return quiet_nan();
  const Row all(z_);
  if (all.kind_ != RowKind::ordinary) return quiet_nan();
  const bool drops_nothing =
      all.ties_ + static_cast<std::int64_t>(all.others_.size()) == ties_ + static_cast<std::int64_t>(others_.size());
  if (drops_nothing) return 0.0F;

  const mpq_class m = mpq_class(top_) - mpq_class(all.top_);
  if (ties_ != all.ties_) {
    // ln (k + ε) - ln (k' + ε') with k != k': transcendental and not small, so no midpoint is near for ever.
    return settle(m, 0, [&](mpfr_prec_t precision) { return log_total(precision) - all.log_total(precision); });
  }
  // k = k': ln (1 + (ε - ε') / (k + ε')). Both sums hold terms with the same gap from their own top; these cancel as
  // integers here. They do not all cancel: the vocabulary has more terms than S.
  std::map<Gap, std::int64_t> terms;
  for (const Gap& gap : others_) ++terms[gap];
  for (const Gap& gap : all.others_) --terms[gap];
  std::erase_if(terms, [](const auto& term) { return term.second == 0; });
  return decide([&](mpfr_prec_t precision) -> std::optional<float> {
    const SignedSum difference = sum_terms(terms, precision);
    const Interval delta = log1p(difference.value / all.total(precision));
    const auto rounded = round_sum(m, delta, difference.sign);
    if (!rounded) return std::nullopt;
    return static_cast<float>(*rounded);
  });
}

float Row::mean_logits() const {
  // By IEEE 754 an infinity added to finite numbers stays, and two opposed ones are NaN.
  mpq_class sum = 0;
  float special = 0;
  for (std::size_t v = 0; v < z_.size(); ++v) {
    if (support_[v] == 0) continue;
    if (std::isfinite(z_[v])) {
      sum += mpq_class(z_[v]);
    } else {
      special += z_[v];
    }
  }
  if (std::isnan(special) || support_size() == 0) return quiet_nan();
  return special != 0 ? special : rn32(sum / mpq_class(support_size()));
}

bool Row::before(std::int64_t a, std::int64_t b) const {
  const float za = z_[static_cast<std::size_t>(a)];
  const float zb = z_[static_cast<std::size_t>(b)];
  if (std::isnan(za) || std::isnan(zb)) {
    if (std::isnan(za) != std::isnan(zb)) return std::isnan(za);
    return a < b;
  }
  return za > zb || (za == zb && a < b);
}

std::vector<std::int64_t> Row::top_k(std::int64_t count) const {
  std::vector<std::int64_t> ids;
  if (kind_ != RowKind::none) {
    for (std::size_t v = 0; v < z_.size(); ++v) {
      if (support_[v] != 0) ids.push_back(static_cast<std::int64_t>(v));
    }
    std::sort(ids.begin(), ids.end(), [&](std::int64_t a, std::int64_t b) { return before(a, b); });
  }
  ids.resize(static_cast<std::size_t>(count), -1);
  return ids;
}

std::int64_t Row::argmax() const {
  std::int64_t best = -1;
  if (kind_ == RowKind::none) return best;
  for (std::int64_t v = 0; v < static_cast<std::int64_t>(z_.size()); ++v) {
    if (in_support(v) && (best < 0 || before(v, best))) best = v;
  }
  return best;
}

std::int64_t Row::rank(std::int64_t t) const {
  if (kind_ == RowKind::nan) return 0;
  if (kind_ == RowKind::none) return -1;
  if (!in_support(t)) return 0;
  std::int64_t place = 1;
  for (std::size_t v = 0; v < z_.size(); ++v) {
    if (support_[v] != 0 && before(static_cast<std::int64_t>(v), t)) ++place;
  }
  return place;
}

}  // namespace isologit::oracle
