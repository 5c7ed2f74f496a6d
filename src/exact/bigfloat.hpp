// Numbers of any size and precision, exactly: sign * integer * 2^(64 * exponent). The integer is a little-endian list
// of 64-bit limbs. A plain base-2^64 floating point, so sums need no bit shifts.
#pragma once

#include <cstdint>
#include <vector>

#include "exact/rounding.hpp"

namespace isologit::detail::exact {

struct BigFloat {
  bool negative = false;
  std::int64_t exponent = 0;         // of the lowest limb, in limbs
  std::vector<std::uint64_t> limbs;  // no zero limb at either end; empty is zero

  bool is_zero() const { return limbs.empty(); }
  std::int64_t top() const { return exponent + static_cast<std::int64_t>(limbs.size()); }  // |x| < 2^(64 top)

  static BigFloat from_double(double finite);
  static BigFloat power_of_two(std::int64_t exponent);
};

// Restores the rule on zero limbs after the limbs were written by hand.
void trim(BigFloat& x);

BigFloat negate(BigFloat x);

// Exact. The caller keeps the distance of the exponents small: the cost is the span from the highest to the lowest bit.
BigFloat add(const BigFloat& a, const BigFloat& b);
BigFloat subtract(const BigFloat& a, const BigFloat& b);
// The sum of a and b, neither of them 0, after the limbs of both below 2^(64 lowest) were dropped.
BigFloat add(const BigFloat& a, const BigFloat& b, std::int64_t lowest);
BigFloat multiply(const BigFloat& a, const BigFloat& b);

// x * 2^shift, exactly.
BigFloat scale_by_power_of_two(const BigFloat& x, std::int64_t shift);

// Drops the lowest limbs beyond `limbs` (toward zero). Returns whether anything nonzero was dropped, which is then less
// than 2^(64 x.exponent) in magnitude.
bool truncate(BigFloat& x, std::size_t limbs);

int compare_magnitude(const BigFloat& a, const BigFloat& b);
// -1, 0 or 1.
int sign_of(const BigFloat& x);

// Exponent of the lowest and of the highest set bit; x is not zero.
std::int64_t lowest_bit(const BigFloat& x);
std::int64_t highest_bit(const BigFloat& x);

// A double near x, for starting values and estimates only: mantissa in [1, 2) times 2^exponent.
struct Approximation {
  double mantissa;
  std::int64_t exponent;
};
Approximation approximate(const BigFloat& x);

// Rounded once to `format`; exactly zero gives +0.
double round(const BigFloat& x, const Format& format);
// Of a sum: `finite` of its finite terms, `special` the IEEE sum of the others, 0 where there are none.
double round_sum(const BigFloat& finite, double special, const Format& format);
// A number next to `boundary`, one of boundaries_of(format), rounded: below it, itself or above it as `side` is
// negative, 0 or positive.
double round_beside(const BigFloat& boundary, int side, const Format& format);

}  // namespace isologit::detail::exact
