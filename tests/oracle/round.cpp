#include "oracle/round.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace isologit::oracle {
namespace {

mpq_class times_power_of_two(const mpq_class& x, long exponent) {
  mpq_class result;
  if (exponent >= 0) {
    mpq_mul_2exp(result.get_mpq_t(), x.get_mpq_t(), static_cast<mp_bitcnt_t>(exponent));
  } else {
    mpq_div_2exp(result.get_mpq_t(), x.get_mpq_t(), static_cast<mp_bitcnt_t>(-exponent));
  }
  return result;
}

// The e with 2^e <= x < 2^(e+1), x > 0.
long exponent_of(const mpq_class& x) {
  const auto numerator_bits = static_cast<long>(mpz_sizeinbase(x.get_num_mpz_t(), 2));
  const auto denominator_bits = static_cast<long>(mpz_sizeinbase(x.get_den_mpz_t(), 2));
  const long guess = numerator_bits - denominator_bits;  // x lies in (2^(guess-1), 2^(guess+1))
  return x >= times_power_of_two(1, guess) ? guess : guess - 1;
}

}  // namespace

double round_to(const mpq_class& x, Format format) {
  if (x == 0) return 0.0;
  const mpq_class magnitude = abs(x);
  const long exponent = std::max<long>(exponent_of(magnitude), format.min_exponent);
  if (exponent > format.max_exponent) {
    return sgn(x) * std::numeric_limits<double>::infinity();
  }
  const long unit = exponent - (format.precision - 1);
  const mpq_class scaled = times_power_of_two(magnitude, -unit);  // in units of the last place
  mpz_class count = scaled.get_num() / scaled.get_den();
  const mpq_class rest = scaled - count;
  const int against_half = cmp(rest, mpq_class(1, 2));
  if (against_half > 0 || (against_half == 0 && mpz_odd_p(count.get_mpz_t()) != 0)) ++count;
  if (count == 0) return 0.0;
  const double rounded = std::ldexp(count.get_d(), static_cast<int>(unit));
  const bool overflows = rounded >= std::ldexp(1.0, format.max_exponent + 1);
  return sgn(x) * (overflows ? std::numeric_limits<double>::infinity() : rounded);
}

}  // namespace isologit::oracle
