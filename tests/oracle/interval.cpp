#include "oracle/interval.hpp"

#include <algorithm>

namespace isologit::oracle {
namespace {

Interval blank(const Interval& x, const Interval& y) { return Interval(std::max(x.precision(), y.precision())); }

// 2^exponent, exactly.
mpq_class power_of_two(long exponent) {
  mpq_class result(1);
  if (exponent >= 0) {
    mpq_mul_2exp(result.get_mpq_t(), result.get_mpq_t(), static_cast<mp_bitcnt_t>(exponent));
  } else {
    mpq_div_2exp(result.get_mpq_t(), result.get_mpq_t(), static_cast<mp_bitcnt_t>(-exponent));
  }
  return result;
}

mpq_class exact(const Real& x) {
  mpz_class significand;
  const mpfr_exp_t exponent = mpfr_get_z_2exp(significand.get_mpz_t(), x.get());
  return mpq_class(significand) * power_of_two(exponent);
}

}  // namespace

int Interval::sign() const {
  if (mpfr_sgn(lo.get()) > 0) return 1;
  if (mpfr_sgn(hi.get()) < 0) return -1;
  return 0;
}

Interval operator+(const Interval& x, const Interval& y) {
  Interval r = blank(x, y);
  mpfr_add(r.lo.get(), x.lo.get(), y.lo.get(), MPFR_RNDD);
  mpfr_add(r.hi.get(), x.hi.get(), y.hi.get(), MPFR_RNDU);
  return r;
}

Interval operator-(const Interval& x, const Interval& y) {
  Interval r = blank(x, y);
  mpfr_sub(r.lo.get(), x.lo.get(), y.hi.get(), MPFR_RNDD);
  mpfr_sub(r.hi.get(), x.hi.get(), y.lo.get(), MPFR_RNDU);
  return r;
}

Interval operator-(const Interval& x) { return Interval(x.precision()) - x; }

Interval operator*(const Interval& x, const Interval& y) {
  Interval r = blank(x, y);
  Real product(r.precision());
  bool first = true;
  for (const Real* a : {&x.lo, &x.hi}) {
    for (const Real* b : {&y.lo, &y.hi}) {
      mpfr_mul(product.get(), a->get(), b->get(), MPFR_RNDD);
      if (first || mpfr_less_p(product.get(), r.lo.get()) != 0) mpfr_set(r.lo.get(), product.get(), MPFR_RNDD);
      mpfr_mul(product.get(), a->get(), b->get(), MPFR_RNDU);
      if (first || mpfr_greater_p(product.get(), r.hi.get()) != 0) mpfr_set(r.hi.get(), product.get(), MPFR_RNDU);
      first = false;
    }
  }
  return r;
}

Interval operator/(const Interval& x, const Interval& y) {
  if (y.sign() == 0) throw std::logic_error("oracle: division by an interval that holds 0");
  Interval reciprocal(y.precision());
  mpfr_ui_div(reciprocal.lo.get(), 1, y.hi.get(), MPFR_RNDD);
  mpfr_ui_div(reciprocal.hi.get(), 1, y.lo.get(), MPFR_RNDU);
  return x * reciprocal;
}

namespace {
template <class Function>
Interval increasing(const Interval& x, Function function) {
  Interval r(x.precision());
  function(r.lo.get(), x.lo.get(), MPFR_RNDD);
  function(r.hi.get(), x.hi.get(), MPFR_RNDU);
  return r;
}
}  // namespace

Interval exp(const Interval& x) { return increasing(x, mpfr_exp); }
Interval log(const Interval& x) { return increasing(x, mpfr_log); }
Interval log1p(const Interval& x) { return increasing(x, mpfr_log1p); }
Interval tanh(const Interval& x) { return increasing(x, mpfr_tanh); }

std::optional<double> round_sum(const mpq_class& m, const Interval& delta, int sign, Format format) {
  // Every f32, bf16 and f16 number and every midpoint of two neighbours is a multiple of 2^-150, so m is either on
  // one of them or at least 2^-150 / denominator(m) >= 2^-grain away from all. Hence all deltas of one sign and below
  // 2^-grain give the same rounding, and any of them may stand for an end of the interval that is that small.
  const long grain = 150 + static_cast<long>(mpz_sizeinbase(m.get_den_mpz_t(), 2));
  const auto end = [&](const Real& x) -> mpq_class {
    int side = mpfr_sgn(x.get());
    if (side != 0 && mpfr_get_exp(x.get()) > -grain && (sign == 0 || side == sign)) return exact(x);
    if (sign != 0) side = sign;  // an end at 0 or past it: the real delta is on the known side
    return side * power_of_two(-grain - 1);
  };
  const double from_lo = round_to(m + end(delta.lo), format);
  const double from_hi = round_to(m + end(delta.hi), format);
  if (from_lo != from_hi) return std::nullopt;
  return from_lo;
}

}  // namespace isologit::oracle
