#include "sample/cut.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "exact/elementary.hpp"
#include "fold/ball_sums.hpp"
#include "kernels/exp.hpp"

namespace isologit::detail::sample {
namespace {

using exact::Ball;
using exact::BigFloat;
using exact::Bound;

// f64 terms: beyond this gap they count as far.
constexpr double kReach = 700;
// An upper bound of e^-gap beyond it, and the relative error of sums of the terms before it: 2^-43.5 of a term, 2^-46
// of a tile's sum.
constexpr std::int64_t kFarExponent = -1000;
constexpr double kTermError = 0x1p-42;
// The limbs in which f64 sums are put together.
constexpr std::size_t kLeastLimbs = 3;

// e^-gap for 0 <= gap <= kReach by kernels/exp.hpp, products and sums apart: below 2^-50 relative. The gap was rounded,
// by 2^-53 of itself: 2^-43.5.
double exp_minus(double gap) {
  const double shifted = -gap * kernels::kLog2E + kernels::kRound;
  const double k = shifted - kernels::kRound;
  const double r = (-gap - k * kernels::kLn2High) - k * kernels::kLn2Low;
  double p = 0;
  for (const double coefficient : kernels::kExpCoefficients) p = p * r + coefficient;
  // k is above -1011: p 2^k is a normal number.
  const std::uint64_t lift = std::bit_cast<std::uint64_t>(shifted) - std::bit_cast<std::uint64_t>(kernels::kRound);
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(p) + (lift << 52));
}

double gap_of(float top, float logit) { return static_cast<double>(top) - static_cast<double>(logit); }

BigFloat integer(std::int64_t n) { return BigFloat::from_double(static_cast<double>(n)); }

}  // namespace

Part join(const Part& a, const Part& b, std::size_t limbs) {
  return {a.count + b.count, a.ties + b.ties, exact::add(a.others, b.others, std::max(limbs, kLeastLimbs))};
}

Ball mass(const Part& part, std::size_t limbs) {
  return exact::add(Ball{integer(part.ties), {}}, part.others, std::max(limbs, kLeastLimbs) + 1);
}

Term term_of(float top, float logit, std::size_t limbs) {
  if (logit == top) return {TermKind::tie, 0, {}};
  const double gap = gap_of(top, logit);
  if (gap > (limbs == 0 ? kReach : fold::reach(limbs))) return {TermKind::far, 0, {}};
  if (limbs == 0) return {TermKind::near, exp_minus(gap), {}};
  return {TermKind::near, 0, fold::exp_minus(fold::gap_below(top, logit), limbs)};
}

void fast_terms(float top, const float* logits, std::int64_t count, double* terms) {
  for (std::int64_t i = 0; i < count; ++i) {
    const double gap = gap_of(top, logits[i]);
    const bool counts = gap <= kReach;
    const double value = exp_minus(counts ? gap : kReach);
    terms[i] = counts ? value : -1;
  }
}

void FastSum::flush() {
  sum_.add(unflushed_);
  unflushed_ = 0;
}

void FastSum::add(TermKind kind, double value) {
  ++count_;
  switch (kind) {
    case TermKind::tie: ++ties_; break;
    case TermKind::far: ++far_; break;
    case TermKind::near: sum_.add(value);
  }
}

void FastSum::merge(const FastSum& other) {
  count_ += other.count_;
  ties_ += other.ties_;
  far_ += other.far_;
  sum_.add(other.sum_.high);
  sum_.add(other.sum_.low);
}

void FastSum::write(base::ByteWriter& bytes) const {
  for (const std::int64_t number : {count_, ties_, far_}) bytes.put(number);
  bytes.put(sum_.high);
  bytes.put(sum_.low);
}

bool FastSum::read(base::ByteReader& bytes) {
  return bytes.get_count(count_) && bytes.get_count(ties_) && bytes.get_count(far_) && bytes.get(sum_.high) &&
         bytes.get(sum_.low) && std::isfinite(sum_.high) && std::isfinite(sum_.low);
}

Part FastSum::part() const {
  const double total = sum_.high + sum_.low;
  Ball others = Ball::exact(total);
  others.radius = Bound::of(BigFloat::from_double(total * kTermError));
  return {count_, ties_, exact::add(others, fold::far_share(far_, kFarExponent), kLeastLimbs)};
}

void PartSum::add(const Term& term) {
  fast_.add(term.kind, term.value);
  if (limbs_ != 0 && term.kind == TermKind::near) ball_ = exact::add(ball_, term.ball, limbs_);
}

void PartSum::merge(const PartSum& other) {
  fast_.merge(other.fast_);
  if (limbs_ != 0) ball_ = exact::add(ball_, other.ball_, limbs_);
}

void PartSum::write(base::ByteWriter& bytes) const {
  fast_.write(bytes);
  if (limbs_ != 0) exact::write(ball_, bytes);
}

bool PartSum::read(base::ByteReader& bytes) { return fast_.read(bytes) && (limbs_ == 0 || exact::read(bytes, ball_)); }

Part PartSum::part() const {
  if (limbs_ == 0) return fast_.part();
  return {fast_.count_, fast_.ties_,
          exact::add(ball_, fold::far_share(fast_.far_, fold::far_exponent(limbs_)), limbs_ + 4)};
}

int reaches(const Part& prefix, const Part& beyond, float top_p, std::size_t limbs) {
  const std::size_t wide = std::max(limbs, kLeastLimbs) + 4;
  const BigFloat p = BigFloat::from_double(static_cast<double>(top_p));
  const BigFloat q = exact::add(BigFloat::from_double(1), exact::negate(p));
  // prefix - p (prefix + beyond) = (1 - p) prefix - p beyond: no cancellation for p near 1.
  const BigFloat ties =
      exact::add(exact::multiply(q, integer(prefix.ties)), exact::negate(exact::multiply(p, integer(beyond.ties))));
  if (!prefix.has_others() && !beyond.has_others()) return ties.negative ? -1 : 1;
  // Where the ties balance, some are beyond, so the prefix is all ties and only those beyond have others.
  if (ties.is_zero() && beyond.has_others()) return -1;
  const Ball others = exact::subtract(exact::multiply(Ball{q, {}}, prefix.others, wide),
                                      exact::multiply(Ball{p, {}}, beyond.others, wide), wide);
  return exact::sign(exact::add(Ball{ties, {}}, others, wide));
}

float min_p_limit(float top, float min_p) {
  if (min_p == 1) return top;
  const BigFloat p = BigFloat::from_double(static_cast<double>(min_p));
  // top - z <= -ln min_p, which is irrational: never equal.
  const auto passes = [&](float logit) {
    const BigFloat gap = fold::gap_below(top, logit);
    for (std::size_t limbs = 3;; limbs *= 2) {
      const int sign = exact::sign(exact::add(Ball{gap, {}}, exact::log(Ball{p, {}}, limbs), limbs + 4));
      if (sign != 0) return sign < 0;
    }
  };
  const float lowest = -std::numeric_limits<float>::max();
  const double guess = static_cast<double>(top) + std::log(static_cast<double>(min_p));
  float limit = guess < static_cast<double>(lowest) ? lowest : static_cast<float>(guess);
  while (!passes(limit)) limit = std::nextafter(limit, std::numeric_limits<float>::infinity());
  while (limit != lowest && passes(std::nextafter(limit, -std::numeric_limits<float>::infinity()))) {
    limit = std::nextafter(limit, -std::numeric_limits<float>::infinity());
  }
  return limit;
}

}  // namespace isologit::detail::sample
