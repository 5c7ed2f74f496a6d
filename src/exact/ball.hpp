// Ball arithmetic: a real number known to lie within `radius` of `middle`. Every operation returns a ball that holds
// the exact result for every number of its operand balls, so an error bound is never a separate proof: it is carried.
// (The idea is that of F. Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic", 2017.)
//
// All functions expect round-to-nearest without flush-to-zero on the calling thread (base::FpEnvironment).
#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.hpp"
#include "exact/bigfloat.hpp"

namespace isologit::detail::exact {

// An upper bound of a nonnegative magnitude: mantissa * 2^exponent, mantissa 0 or in [1, 2]. Operations round upward.
struct Bound {
  double mantissa = 0;
  std::int64_t exponent = 0;

  bool is_zero() const { return mantissa == 0; }
  static Bound power_of_two(std::int64_t exponent) { return {1.0, exponent}; }
  static Bound of(const BigFloat& x);  // an upper bound of |x|
};
Bound operator+(const Bound& a, const Bound& b);
Bound operator*(const Bound& a, const Bound& b);
BigFloat to_bigfloat(const Bound& bound);

struct Ball {
  BigFloat middle;
  Bound radius;

  static Ball exact(double value) { return {BigFloat::from_double(value), {}}; }
  bool is_exact() const { return radius.is_zero(); }
};

// Of so many limbs.
constexpr std::int64_t bits_of(std::size_t limbs) { return 64 * static_cast<std::int64_t>(limbs); }

// `limbs` is the working precision: how many 64-bit limbs of a result's middle are kept.
Ball add(const Ball& a, const Ball& b, std::size_t limbs);
Ball subtract(const Ball& a, const Ball& b, std::size_t limbs);
Ball multiply(const Ball& a, const Ball& b, std::size_t limbs);
// b must not contain 0.
Ball divide(const Ball& a, const Ball& b, std::size_t limbs);
Ball divide_by(const Ball& a, std::uint32_t divisor, std::size_t limbs);
Ball scale_by_power_of_two(const Ball& x, std::int64_t shift);
Ball negate(const Ball& x);

void write(const Ball& x, base::ByteWriter& bytes);
// False when the bytes are not a ball.
bool read(base::ByteReader& bytes, Ball& x);

// The ends of the ball, exactly.
BigFloat lower(const Ball& x);
BigFloat upper(const Ball& x);
// Upper bound of |x| over the ball.
Bound magnitude(const Ball& x);
// +1 or -1 when every number of the ball has that sign, 0 when it contains 0.
int sign(const Ball& x);

// The rounding test: the one number of `format` to which every number of the ball rounds, or nothing when there is more
// than one.
std::optional<double> try_round(const Ball& x, const Format& format);

// The same for exact + delta, where `exact` is known without error and delta may be smaller by any factor: below the
// granularity of `exact` and of the format's rounding boundaries only delta's sign counts (CONTRACT.md 9). `sign` is
// that sign, 0 when delta is exactly 0; the ball tells delta's size and need not prove its sign.
std::optional<double> try_round_sum(const BigFloat& exact, const Ball& delta, int sign, const Format& format);

}  // namespace isologit::detail::exact
