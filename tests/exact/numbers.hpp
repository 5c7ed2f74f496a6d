// The numbers of src/exact as rational ones, and random ones of every shape.
#pragma once

#include <gmpxx.h>

#include "exact/ball.hpp"
#include "exact/bigfloat.hpp"
#include "oracle/cases.hpp"
#include "oracle/interval.hpp"
#include "oracle/round.hpp"

namespace isologit::test {

inline mpq_class times_power_of_two(mpq_class x, std::int64_t exponent) {
  if (exponent >= 0) {
    mpq_mul_2exp(x.get_mpq_t(), x.get_mpq_t(), static_cast<mp_bitcnt_t>(exponent));
  } else {
    mpq_div_2exp(x.get_mpq_t(), x.get_mpq_t(), static_cast<mp_bitcnt_t>(-exponent));
  }
  return x;
}
inline mpq_class power_of_two(std::int64_t exponent) { return times_power_of_two(1, exponent); }

inline mpq_class rational(double x) { return mpq_class(x); }

inline mpz_class integer_of(const detail::exact::BigFloat& x) {
  mpz_class integer = 0;
  for (std::size_t i = x.limbs.size(); i-- > 0;) {
    integer <<= 64;
    integer += mpz_class(static_cast<unsigned long>(x.limbs[i]));
  }
  return x.negative ? mpz_class(-integer) : integer;
}

inline mpq_class rational(const detail::exact::BigFloat& x) {
  return times_power_of_two(mpq_class(integer_of(x)), 64 * x.exponent);
}

// x itself, in as many bits as it has.
inline oracle::Real real(const detail::exact::BigFloat& x) {
  oracle::Real result(64 * static_cast<mpfr_prec_t>(x.limbs.size()) + 64);
  mpfr_set_z_2exp(result.get(), integer_of(x).get_mpz_t(), 64 * x.exponent, MPFR_RNDN);
  return result;
}

inline mpq_class rational(const detail::exact::Bound& bound) {
  return times_power_of_two(mpq_class(bound.mantissa), bound.exponent);
}

// All of the interval lies in the ball.
inline bool holds(const detail::exact::Ball& ball, const oracle::Interval& x) {
  return mpfr_lessequal_p(real(lower(ball)).get(), x.lo.get()) != 0 &&
         mpfr_greaterequal_p(real(upper(ball)).get(), x.hi.get()) != 0;
}

inline bool holds(const detail::exact::Ball& ball, const mpq_class& x) {
  return abs(mpq_class(x - rational(ball.middle))) <= rational(ball.radius);
}

// Up to `limbs` limbs: random ones, many of zeros, of ones or of a single bit.
inline detail::exact::BigFloat random_bigfloat(oracle::Random& random, std::size_t limbs) {
  detail::exact::BigFloat x;
  x.negative = random.below(2) == 0;
  x.exponent = random.between(-4, 4);
  for (std::size_t i = 1 + random.below(limbs); i > 0; --i) {
    const std::uint64_t kinds[] = {0, ~std::uint64_t{0}, std::uint64_t{1} << random.below(64), random.next(),
                                   random.next()};
    x.limbs.push_back(kinds[random.below(5)]);
  }
  detail::exact::trim(x);
  return x;
}

// A third of them exact, the others known to between 4 and 200 bits.
inline detail::exact::Ball random_ball(oracle::Random& random, std::size_t limbs) {
  detail::exact::Ball ball{random_bigfloat(random, limbs), {}};
  if (random.below(3) == 0) return ball;
  const std::int64_t size = ball.middle.is_zero() ? 0 : detail::exact::highest_bit(ball.middle);
  ball.radius = {1.0 + random.uniform(), size - random.between(4, 200)};
  return ball;
}

// A number of the ball: an end, the middle or any other.
inline mpq_class point_of(oracle::Random& random, const detail::exact::Ball& ball) {
  const double places[] = {-1, 1, 0, 2 * random.uniform() - 1};
  return rational(ball.middle) + mpq_class(places[random.below(4)]) * rational(ball.radius);
}

// The library's formats beside the oracle's.
struct FormatPair {
  const char* name;
  detail::exact::Format format;
  oracle::Format oracle;
};
inline constexpr FormatPair format_pairs[] = {
    {"f32", detail::exact::kF32, oracle::format_f32},
    {"bf16", detail::exact::kBf16, oracle::format_bf16},
    {"f16", detail::exact::kF16, oracle::format_f16},
    {"f64", detail::exact::kF64, {53, -1022, 1023}},
};

}  // namespace isologit::test
