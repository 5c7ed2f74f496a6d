// Intervals that are certain to hold the real number they stand for: MPFR with the lower end always rounded down and
// the upper end always rounded up. A result is settled when both ends round to the same f32; otherwise the caller
// comes back with twice the precision (decide()).
#pragma once

#include <gmpxx.h>
#include <mpfr.h>

#include <optional>
#include <stdexcept>

#include "oracle/round.hpp"

namespace isologit::oracle {

// Owns one mpfr_t.
class Real {
 public:
  explicit Real(mpfr_prec_t precision) {
    mpfr_init2(value_, precision);
    mpfr_set_zero(value_, 1);
  }
  Real(const Real& other) {
    mpfr_init2(value_, mpfr_get_prec(other.value_));
    mpfr_set(value_, other.value_, MPFR_RNDN);
  }
  Real(Real&& other) noexcept : Real(MPFR_PREC_MIN) { mpfr_swap(value_, other.value_); }
  Real& operator=(Real other) noexcept {
    mpfr_swap(value_, other.value_);
    return *this;
  }
  ~Real() { mpfr_clear(value_); }

  mpfr_ptr get() { return value_; }
  mpfr_srcptr get() const { return value_; }
  mpfr_prec_t precision() const { return mpfr_get_prec(value_); }

 private:
  mpfr_t value_;
};

struct Interval {
  Real lo, hi;

  explicit Interval(mpfr_prec_t precision) : lo(precision), hi(precision) {}  // [0, 0]
  Interval(const mpq_class& x, mpfr_prec_t precision) : Interval(precision) {
    mpfr_set_q(lo.get(), x.get_mpq_t(), MPFR_RNDD);
    mpfr_set_q(hi.get(), x.get_mpq_t(), MPFR_RNDU);
  }

  mpfr_prec_t precision() const { return lo.precision(); }
  // 1 or -1 when every member has that sign, else 0.
  int sign() const;
};

// Results have the greater of the operands' precisions.
Interval operator+(const Interval& x, const Interval& y);
Interval operator-(const Interval& x, const Interval& y);
Interval operator-(const Interval& x);
Interval operator*(const Interval& x, const Interval& y);
Interval operator/(const Interval& x, const Interval& y);  // y must exclude 0
Interval exp(const Interval& x);
Interval log(const Interval& x);    // x > 0
Interval log1p(const Interval& x);  // x > -1
Interval tanh(const Interval& x);

// RN(m + delta), or nothing when the interval is still too wide to tell. m is exact. A sign of 1 or -1 says that the
// real delta is known to be strictly of that sign, even where its interval, having underflowed, reaches 0. So a
// delta far too small to move m is still seen to push it off a midpoint.
std::optional<double> round_sum(const mpq_class& m, const Interval& delta, int sign, Format format = format_f32);

// Calls attempt(precision) with precisions start, 2 start, 4 start, ... until it returns a value.
inline constexpr mpfr_prec_t start_precision = 128;
template <class Attempt>
auto decide(Attempt attempt) {
  for (mpfr_prec_t precision = start_precision;; precision *= 2) {
    if (auto result = attempt(precision)) return *result;
    // No cap is meant: a test that comes here has met a case that should have been settled by exact arithmetic.
    if (precision > (1L << 24)) throw std::logic_error("oracle: undecided at 16 million bits: an exact tie?");
  }
}

}  // namespace isologit::oracle
