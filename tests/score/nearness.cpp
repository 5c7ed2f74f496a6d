#include "score/nearness.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "oracle/distribution.hpp"

namespace isologit::testing_score {
namespace {

using oracle::Interval;
using oracle::Real;

// m + delta at a precision that holds every exact m and, unless it is negligible, delta beside it.
void add_distance(Nearness& nearness, const mpq_class& m, const Interval& delta) {
  Real value(600);
  mpfr_set_q(value.get(), m.get_mpq_t(), MPFR_RNDN);
  mpfr_add(value.get(), value.get(), delta.lo.get(), MPFR_RNDN);
  if (mpfr_zero_p(value.get())) return;
  // In units of the last of 24 bits boundaries are halves; subnormal results have a coarser spacing.
  const mpfr_exp_t last = std::max<mpfr_exp_t>(mpfr_get_exp(value.get()) - 24, -149);
  mpfr_mul_2si(value.get(), value.get(), -last, MPFR_RNDN);
  mpfr_frac(value.get(), value.get(), MPFR_RNDN);
  mpfr_abs(value.get(), value.get(), MPFR_RNDN);
  mpfr_sub_d(value.get(), value.get(), 0.5, MPFR_RNDN);
  const double distance = std::fabs(mpfr_get_d(value.get(), MPFR_RNDN));
  ++nearness.values;
  nearness.within_2_12 += distance < 0x1p-12;
  nearness.within_2_16 += distance < 0x1p-16;
  nearness.within_2_20 += distance < 0x1p-20;
  nearness.within_2_100 += distance < 0x1p-100;
  if (distance >= 0x1p-100) nearness.nearest = std::min(nearness.nearest, distance);
}

}  // namespace

void Nearness::merge(const Nearness& other) {
  values += other.values;
  within_2_12 += other.within_2_12;
  within_2_16 += other.within_2_16;
  within_2_20 += other.within_2_20;
  within_2_100 += other.within_2_100;
  nearest = std::min(nearest, other.nearest);
}

void Nearness::print() const {
  std::printf(
      "  of %lld results, from a tie by less than 2^-12 of the spacing %lld, 2^-16 %lld, 2^-20 %lld, 2^-100 "
      "%lld; the nearest of the others by 2^%.1f\n",
      static_cast<long long>(values), static_cast<long long>(within_2_12), static_cast<long long>(within_2_16),
      static_cast<long long>(within_2_20), static_cast<long long>(within_2_100), std::log2(nearest));
}

Nearness nearness_of(std::span<const float> z, std::span<const std::int64_t> ids) {
  constexpr mpfr_prec_t precision = oracle::start_precision;  // so the sums are made once for this and the oracle
  Nearness nearness;
  const oracle::Row row(z);
  if (row.kind() != oracle::RowKind::ordinary) return nearness;
  const Interval excess = row.ties() == 1 ? log1p(row.tail(precision).mass) : log(row.total(precision));
  const mpq_class top(row.top());
  add_distance(nearness, top, excess);
  add_distance(nearness, 0, excess + row.tail(precision).moment / row.total(precision));
  for (const std::int64_t id : ids) {
    const float target = z[static_cast<std::size_t>(id)];
    if (std::isfinite(target)) add_distance(nearness, mpq_class(target) - top, -excess);
  }
  return nearness;
}

}  // namespace isologit::testing_score
