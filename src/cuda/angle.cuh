// Cosine and sine of an angle, a whole number in [0, 2^31) times an f32 in [0, 1], over the reals: in f64, and in pairs
// of doubles.
#pragma once

#include "cuda/activations.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

template <class T>
struct Turn {
  T cosine, sine;
};

// A turn by r in [-pi/4, pi/4], and `quarters` quarters more.
template <class T, class Negate>
ISOLOGIT_DEVICE Turn<T> turned_by_quarters(const T& cosine, const T& sine, int quarters, Negate negate) {
  const T c = (quarters & 1) != 0 ? sine : cosine;
  const T s = (quarters & 1) != 0 ? cosine : sine;
  return {((quarters + 1) & 2) != 0 ? negate(c) : c, (quarters & 2) != 0 ? negate(s) : s};
}

// Each within 2^-50. The angle is a + b, both exact: 15 and 16 bits of the position times 24 of the frequency. It is
// reduced by k pi / 2, pi / 2 being the sum of four parts of which the first three have 22 bits, so their products with
// k < 2^31 are exact. a - k part 1 is exact (its grid is 2^-8 frequency or 2^-21, its size below 2^16 frequency + 2^9);
// the four operations after it round by at most 2^-54 each, results being below 1 once b is in, or are exact. The parts
// end 2^-123 of a turn before pi / 2 does. So the reduced angle r is within 2^-52, |r| < 0.7855, and Taylor's
// polynomials end within 2^-58 of sine and cosine (r^19 / 19!, r^18 / 18!) and round by less than 2^-52.
ISOLOGIT_DEVICE Turn<double> turn_near(std::int64_t position, double frequency) {
  const double a = static_cast<double>(position & ~std::int64_t{0xFFFF}) * frequency;
  const double b = static_cast<double>(position & 0xFFFF) * frequency;
  const double k = rint((a + b) * 0x1.45f306dc9c883p-1);
  double r = (a - k * 0x1.921fb00000000p+0) + b;
  r -= k * 0x1.5110b00000000p-22;
  r -= k * 0x1.1846980000000p-44;
  r -= k * 0x1.3198a2e037073p-69;
  const double square = r * r;
  double p = 1.0 / 355687428096000.0;
  p = 1.0 / 1307674368000.0 - square * p;
  p = 1.0 / 6227020800.0 - square * p;
  p = 1.0 / 39916800.0 - square * p;
  p = 1.0 / 362880.0 - square * p;
  p = 1.0 / 5040.0 - square * p;
  p = 1.0 / 120.0 - square * p;
  p = 1.0 / 6.0 - square * p;
  double q = 1.0 / 20922789888000.0;
  q = 1.0 / 87178291200.0 - square * q;
  q = 1.0 / 479001600.0 - square * q;
  q = 1.0 / 3628800.0 - square * q;
  q = 1.0 / 40320.0 - square * q;
  q = 1.0 / 720.0 - square * q;
  q = 1.0 / 24.0 - square * q;
  q = 0.5 - square * q;
  return turned_by_quarters(1.0 - square * q, r - r * square * p, static_cast<int>(static_cast<std::int64_t>(k) & 3),
                            [](double x) { return -x; });
}

// An angle less k pi / 2, within 2^-100 of itself; k modulo 4. hi is NaN where that is not proven.
struct Reduced {
  Pair r;
  int quarters;
};

// The angle is M 2^e, M below 2^55. Where it is below 3/4, it is itself a pair. Else e is -55 to -23, and the number of
// quarters of a turn in it, times 2^(224 - e), is M times the 224 bits of 2 / pi, but for less than 2^55: to 2^-193.
// Of that the part after the point, less 1 where it is above 1/2, is summed in pairs from its first digit on (nine
// additions) and multiplied by pi / 2. No M is known whose angle is nearer to a multiple than 2^-70 of a quarter; one
// within 2^-88 is not proven.
ISOLOGIT_DEVICE Reduced reduced_angle(std::int64_t position, float frequency) {
  const Pair angle = product_of(static_cast<double>(position), static_cast<double>(frequency));
  if (angle.hi < 0.75) return {angle, 0};
  const auto bits = bit_cast<std::uint32_t>(frequency);
  const auto m = static_cast<std::uint64_t>(position) * ((bits & 0x7FFFFFU) | 0x800000U);
  const int point = 224 + 150 - static_cast<int>(bits >> 23);  // 247 to 279
  const std::uint64_t low = m & 0xFFFFFFFFU, high = m >> 32;
  const std::uint32_t two_over_pi[] = {0xFE5163ABU, 0x3C439041U, 0xDB629599U, 0xF534DDC0U,
                                       0xFC2757D1U, 0x4E441529U, 0xA2F9836EU};
  std::uint32_t digit[9];
  std::uint64_t carried = 0;
  ISOLOGIT_UNROLL
  for (int i = 0; i < 9; ++i) {
    const std::uint64_t own = i < 7 ? low * two_over_pi[i] : 0;
    const std::uint64_t other = i > 0 && i < 8 ? high * two_over_pi[i - 1] : 0;
    const std::uint64_t sum = (own & 0xFFFFFFFFU) + (other & 0xFFFFFFFFU) + carried;
    digit[i] = static_cast<std::uint32_t>(sum);
    carried = (sum >> 32) + (own >> 32) + (other >> 32);
  }
  // What lies above the point is in the last two digits.
  const std::uint64_t leading = std::uint64_t{digit[8]} << 32 | digit[7];
  const int whole = point - 224;  // bits of `leading` that are after the point: 23 to 55
  const bool past_half = (leading >> (whole - 1) & 1U) != 0;
  const int quarters = static_cast<int>(leading >> whole & 3U) + (past_half ? 1 : 0);
  // After the point, or 1 less that.
  const std::uint64_t mask = (std::uint64_t{1} << whole) - 1;
  const std::uint64_t fraction = past_half ? ~leading & mask : leading & mask;
  const double unit = power_of_two(-whole);
  Pair turns = {static_cast<double>(fraction >> 32) * (unit * 0x1p32), 0.0};
  turns = add(turns, {static_cast<double>(fraction & 0xFFFFFFFFU) * unit, 0.0});
  ISOLOGIT_UNROLL
  for (int i = 6; i >= 0; --i) {
    const std::uint32_t own = past_half ? ~digit[i] : digit[i];  // but for 2^-193
    turns = add(turns, {static_cast<double>(own) * (unit * power_of_two(32 * (i - 7))), 0.0});
  }
  if (turns.hi < 0x1p-88) return {{bit_cast<double>(~std::uint64_t{0} >> 1), 0.0}, 0};
  const Pair r = multiply(turns, {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54});
  return {past_half ? negative(r) : r, quarters & 3};
}

// Each within 2^-98 of itself, or NaN. Taylor's series to r^27 and r^26, whose next terms are below 2^-112 and 2^-107:
// eight steps in pairs, before which come single doubles, below 2^-49 of the first term.
ISOLOGIT_DEVICE Turn<Pair> turn_of(std::int64_t position, float frequency) {
  const Reduced angle = reduced_angle(position, frequency);
  const Pair z = multiply(angle.r, angle.r);
  double tail = -0x1.d1ab1c2dccea3p-94;
  tail = fused(tail, z.hi, 0x1.3f3ccdd165fa9p-84);
  tail = fused(tail, z.hi, -0x1.761b41316381ap-75);
  tail = fused(tail, z.hi, 0x1.71b8ef6dcf572p-66);
  tail = fused(tail, z.hi, -0x1.2f49b46814157p-57);
  tail = fused(tail, z.hi, 0x1.952c77030ad4ap-49);
  Pair s = horner(z, {tail, 0.0}, -0x1.ae7f3e733b81fp-41, -0x1.1d8656b0ee8cbp-97);
  s = horner(z, s, 0x1.6124613a86d09p-33, 0x1.f28e0cc748ebep-87);
  s = horner(z, s, -0x1.ae64567f544e4p-26, 0x1.c062e06d1f209p-80);
  s = horner(z, s, 0x1.71de3a556c734p-19, -0x1.c154f8ddc6c00p-73);
  s = horner(z, s, -0x1.a01a01a01a01ap-13, -0x1.a01a01a01a01ap-73);
  s = horner(z, s, 0x1.1111111111111p-7, 0x1.1111111111111p-63);
  s = horner(z, s, -0x1.5555555555555p-3, -0x1.5555555555555p-57);
  s = horner(z, s, 1.0, 0.0);
  tail = -0x1.88e85fc6a4e5ap-89;
  tail = fused(tail, z.hi, 0x1.f2cf01972f578p-80);
  tail = fused(tail, z.hi, -0x1.0ce396db7f853p-70);
  tail = fused(tail, z.hi, 0x1.e542ba4020225p-62);
  tail = fused(tail, z.hi, -0x1.6827863b97d97p-53);
  tail = fused(tail, z.hi, 0x1.ae7f3e733b81fp-45);
  Pair c = horner(z, {tail, 0.0}, -0x1.93974a8c07c9dp-37, -0x1.05d6f8a2efd1fp-92);
  c = horner(z, c, 0x1.1eed8eff8d898p-29, -0x1.2aec959e14c06p-83);
  c = horner(z, c, -0x1.27e4fb7789f5cp-22, -0x1.cbbc05b4fa99ap-76);
  c = horner(z, c, 0x1.a01a01a01a01ap-16, 0x1.a01a01a01a01ap-76);
  c = horner(z, c, -0x1.6c16c16c16c17p-10, 0x1.f49f49f49f49fp-65);
  c = horner(z, c, 0x1.5555555555555p-5, 0x1.5555555555555p-59);
  c = horner(z, c, -0.5, 0.0);
  c = horner(z, c, 1.0, 0.0);
  return turned_by_quarters(c, multiply(angle.r, s), angle.quarters, [](const Pair& x) { return negative(x); });
}

}  // namespace isologit::detail::cuda
