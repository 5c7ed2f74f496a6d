#include "exact/ball.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace isologit::detail::exact {
namespace {

// Each Bound operation makes at most two roundings of relative size 2^-53; this factor exceeds them.
constexpr double kUp = 1.0 + 0x1p-50;

Bound normalized(double mantissa, std::int64_t exponent) {
  if (mantissa == 0) return {};
  int shift = 0;
  const double fraction = std::frexp(mantissa, &shift);
  return {fraction * 2, exponent + shift - 1};
}

// Truncates the middle to the working precision and accounts for what was dropped.
Ball shortened(BigFloat middle, Bound radius, std::size_t limbs) {
  // Where zero limbs above the dropped ones go as well, the exponent says less than it might.
  const std::int64_t lowest = middle.top() - static_cast<std::int64_t>(limbs);
  if (truncate(middle, limbs)) radius = radius + Bound::power_of_two(64 * lowest);
  return {std::move(middle), radius};
}

}  // namespace

Bound Bound::of(const BigFloat& x) {
  if (x.is_zero()) return {};
  const Approximation near = approximate(x);
  return {std::fabs(near.mantissa) * kUp, near.exponent};
}

Bound operator+(const Bound& a, const Bound& b) {
  if (a.is_zero()) return b;
  if (b.is_zero()) return a;
  const Bound& large = a.exponent >= b.exponent ? a : b;
  const Bound& small = a.exponent >= b.exponent ? b : a;
  // Far below, the small one counts as 2^-100 of the large one, which kUp covers as well.
  const std::int64_t gap = std::min<std::int64_t>(large.exponent - small.exponent, 100);
  return normalized((large.mantissa + std::ldexp(small.mantissa, -static_cast<int>(gap))) * kUp, large.exponent);
}

Bound operator*(const Bound& a, const Bound& b) {
  return normalized(a.mantissa * b.mantissa * kUp, a.exponent + b.exponent);
}

BigFloat to_bigfloat(const Bound& bound) {
  return scale_by_power_of_two(BigFloat::from_double(bound.mantissa), bound.exponent);
}

Ball add(const Ball& a, const Ball& b, std::size_t limbs) {
  Bound radius = a.radius + b.radius;
  if (a.middle.is_zero()) return shortened(b.middle, radius, limbs);
  if (b.middle.is_zero()) return shortened(a.middle, radius, limbs);
  // Limbs below this position are beyond the working precision of the larger operand.
  const std::int64_t lowest = std::max(a.middle.top(), b.middle.top()) - static_cast<std::int64_t>(limbs) - 1;
  // What is dropped from each of the two is below one unit there.
  if (std::min(a.middle.exponent, b.middle.exponent) < lowest) radius = radius + Bound::power_of_two(64 * lowest + 1);
  return shortened(add(a.middle, b.middle, lowest), radius, limbs);
}

Ball negate(const Ball& x) { return {negate(x.middle), x.radius}; }

Ball subtract(const Ball& a, const Ball& b, std::size_t limbs) { return add(a, negate(b), limbs); }

Ball multiply(const Ball& a, const Ball& b, std::size_t limbs) {
  const Bound radius = a.radius * (Bound::of(b.middle) + b.radius) + b.radius * Bound::of(a.middle);
  return shortened(multiply(a.middle, b.middle), radius, limbs);
}

Ball divide(const Ball& a, const Ball& b, std::size_t limbs) {
  // Newton's iteration for the reciprocal of b's middle; how well it did is measured, not assumed.
  const Approximation start = approximate(b.middle);
  BigFloat reciprocal = scale_by_power_of_two(BigFloat::from_double(1 / start.mantissa), -start.exponent);
  const BigFloat one = BigFloat::from_double(1);
  for (std::size_t bits = 50; bits < 64 * (limbs + 1); bits *= 2) {
    const BigFloat error = subtract(one, multiply(reciprocal, b.middle));
    reciprocal = add(reciprocal, multiply(reciprocal, error));
    truncate(reciprocal, limbs + 1);
  }
  BigFloat quotient = multiply(a.middle, reciprocal);
  truncate(quotient, limbs);
  // For every x in a and y in b: |x/y - q| = |x - q y| / |y|, and |x - q y| <= |a - q b| + radius_a + |q| radius_b.
  const BigFloat residual = subtract(a.middle, multiply(quotient, b.middle));
  const Bound numerator = Bound::of(residual) + a.radius + Bound::of(quotient) * b.radius;
  if (numerator.is_zero()) return {quotient, {}};
  // A lower bound of |y| as a power of two.
  const Ball absolute{b.middle.negative ? negate(b.middle) : b.middle, b.radius};
  const std::int64_t least = highest_bit(lower(absolute));
  return {std::move(quotient), numerator * Bound::power_of_two(-least)};
}

Ball divide_by(const Ball& a, std::uint32_t divisor, std::size_t limbs) {
  // Schoolbook division by one small digit, from the top, with `limbs` quotient limbs.
  BigFloat quotient;
  quotient.negative = a.middle.negative;
  Bound radius = a.radius * normalized(kUp / divisor, 0);
  if (a.middle.is_zero()) return {quotient, radius};
  quotient.exponent = a.middle.top() - static_cast<std::int64_t>(limbs) - 1;
  quotient.limbs.assign(limbs + 1, 0);
  std::uint64_t remainder = 0;  // below divisor, so below 2^32: two halves a limb keep the division in 64 bits
  for (std::size_t i = limbs + 1; i-- > 0;) {
    const auto position = static_cast<std::int64_t>(i) + quotient.exponent - a.middle.exponent;
    const bool inside = position >= 0 && position < static_cast<std::int64_t>(a.middle.limbs.size());
    const std::uint64_t limb = inside ? a.middle.limbs[static_cast<std::size_t>(position)] : 0;
    const std::uint64_t high = remainder << 32 | limb >> 32;
    const std::uint64_t low = (high % divisor) << 32 | (limb & 0xFFFFFFFFU);
    quotient.limbs[i] = (high / divisor) << 32 | low / divisor;
    remainder = low % divisor;
  }
  if (remainder != 0 || quotient.exponent > a.middle.exponent) {
    radius = radius + Bound::power_of_two(64 * quotient.exponent);
  }
  trim(quotient);
  return shortened(std::move(quotient), radius, limbs);
}

Ball scale_by_power_of_two(const Ball& x, std::int64_t shift) {
  Bound radius = x.radius;
  if (!radius.is_zero()) radius.exponent += shift;
  return {scale_by_power_of_two(x.middle, shift), radius};
}

void write(const Ball& x, base::ByteWriter& bytes) {
  bytes.put(x.middle.negative);
  bytes.put(x.middle.exponent);
  bytes.put(static_cast<std::uint64_t>(x.middle.limbs.size()));
  for (const std::uint64_t limb : x.middle.limbs) bytes.put(limb);
  bytes.put(x.radius.mantissa);
  bytes.put(x.radius.exponent);
}

bool read(base::ByteReader& bytes, Ball& x) {
  // Beyond what any sums reach (e^-gap of gaps up to 2^50, and a bound for greater ones), far below what arithmetic on
  // exponents holds.
  constexpr std::int64_t kFarthest = std::int64_t{1} << 54;
  unsigned char negative = 0;
  std::uint64_t limbs = 0;
  x = Ball{};
  if (!bytes.get(negative) || !bytes.get(x.middle.exponent) || !bytes.get(limbs) || limbs > bytes.left() / 8)
    return false;
  x.middle.negative = negative != 0;
  x.middle.limbs.resize(limbs);
  for (std::uint64_t& limb : x.middle.limbs) bytes.get(limb);
  trim(x.middle);
  return bytes.get(x.radius.mantissa) && bytes.get(x.radius.exponent) && x.radius.mantissa >= 0 &&
         x.radius.mantissa <= 4 && std::abs(x.radius.exponent) < kFarthest && std::abs(x.middle.exponent) < kFarthest;
}

BigFloat lower(const Ball& x) { return subtract(x.middle, to_bigfloat(x.radius)); }

BigFloat upper(const Ball& x) { return add(x.middle, to_bigfloat(x.radius)); }

Bound magnitude(const Ball& x) { return Bound::of(x.middle) + x.radius; }

int sign(const Ball& x) {
  const BigFloat low = lower(x);
  const BigFloat high = upper(x);
  if (!low.is_zero() && !low.negative) return 1;
  if (!high.is_zero() && high.negative) return -1;
  return 0;
}

std::optional<double> try_round(const Ball& x, const Format& format) {
  const double low = round(lower(x), format);
  const double high = round(upper(x), format);
  if (low != high) return std::nullopt;
  return low;
}

std::optional<double> try_round_sum(const BigFloat& exact, const Ball& delta, int sign, const Format& format) {
  if (sign == 0) return round(exact, format);
  // Every boundary between two roundings is a multiple of half the smallest subnormal number, and `exact` of its own
  // lowest bit: their distance is 0 or at least 2^granularity.
  std::int64_t granularity = format.emin - format.precision;
  if (!exact.is_zero()) granularity = std::min(granularity, lowest_bit(exact));
  if (magnitude(delta).exponent + 2 < granularity) {
    BigFloat nudge = BigFloat::power_of_two(granularity - 1);
    nudge.negative = sign < 0;
    return round(add(exact, nudge), format);
  }
  const double low = round(add(exact, lower(delta)), format);
  const double high = round(add(exact, upper(delta)), format);
  if (low != high) return std::nullopt;
  return low;
}

}  // namespace isologit::detail::exact
