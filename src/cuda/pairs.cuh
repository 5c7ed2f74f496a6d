// Pairs of doubles: numbers hi + lo of some 100 bits, |lo| at most half the last place of hi, by IEEE operations alone.
// e^x and ln(1 + x) of them are made here, so that no bound rests on a vendor's functions.
//
// Bounds are relative to the result, u = 2^-53: add 3 u^2, multiply 5 u^2, divide 10 u^2 (Joldes, Muller, Popescu,
// 2017). Where a product falls below 2^-1000 less is kept; who uses these says why that does not matter.
#pragma once

#include "cuda/certificate.cuh"

namespace isologit::detail::cuda {

struct Pair {
  double hi, lo;
};

// s becomes the rounded sum of s and x, and what rounding took is returned (Knuth).
ISOLOGIT_DEVICE double two_sum(double& s, double x) {
  const double sum = s + x;
  const double part = sum - s;
  const double error = (s - (sum - part)) + (x - part);
  s = sum;
  return error;
}
// a + b as a pair, exactly; `ordered`: |a| is no less than |b|, or a is 0 (Dekker).
ISOLOGIT_DEVICE Pair sum_of(double a, double b) {
  const double lo = two_sum(a, b);
  return {a, lo};
}
ISOLOGIT_DEVICE Pair ordered_sum_of(double a, double b) {
  const double sum = a + b;
  return {sum, b - (sum - a)};
}
ISOLOGIT_DEVICE Pair product_of(double a, double b) {
  const double product = a * b;
  return {product, fused(a, b, -product)};
}

ISOLOGIT_DEVICE Pair add(const Pair& a, const Pair& b) {
  const Pair high = sum_of(a.hi, b.hi);
  const Pair low = sum_of(a.lo, b.lo);
  const Pair sum = ordered_sum_of(high.hi, high.lo + low.hi);
  return ordered_sum_of(sum.hi, low.lo + sum.lo);
}
ISOLOGIT_DEVICE Pair multiply(const Pair& a, const Pair& b) {
  const Pair high = product_of(a.hi, b.hi);
  return ordered_sum_of(high.hi, high.lo + fused(a.lo, b.hi, a.hi * b.lo));
}
// Of b not 0. What the first quotient leaves is exact but for lo's share of it.
ISOLOGIT_DEVICE Pair divide(const Pair& a, const Pair& b) {
  const double first = a.hi / b.hi;
  const double rest = fused(-first, b.hi, a.hi) + fused(-first, b.lo, a.lo);
  return ordered_sum_of(first, rest / b.hi);
}
ISOLOGIT_DEVICE Pair negative(const Pair& a) { return {-a.hi, -a.lo}; }
ISOLOGIT_DEVICE Pair scaled(const Pair& a, double power) { return {a.hi * power, a.lo * power}; }

// e^x = 2^k (1 + p). p is within 2^-99 of itself where k is 0, and 1 + p within 2^-98 of itself always.
struct Exponential {
  Pair p;
  int k;
};

// c + x s: a step of Horner's rule with c no less than the product. Within 2^-103 of itself: six roundings and a
// product that are at most 2^-106 of c each, c itself rounded to a pair.
ISOLOGIT_DEVICE Pair horner(const Pair& x, const Pair& s, double c_hi, double c_lo) {
  const Pair high = product_of(x.hi, s.hi);
  const double low = fused(x.hi, s.lo, fused(x.lo, s.hi, high.lo));
  const Pair sum = ordered_sum_of(c_hi, high.hi);
  return ordered_sum_of(sum.hi, sum.lo + (c_lo + low));
}

// Of -1000 < x < 1000. x is brought into [-ln 2 / 2, ln 2 / 2] by a multiple of ln 2 in three parts, of which two have
// 42 bits, so that k times them is exact; k times what is left of ln 2 is below 2^-134. Then Taylor's series: from the
// thirteenth term on, which is below 2^-50 of the first, in single doubles, up to the 22nd; the next is below 2^-108.
ISOLOGIT_DEVICE Exponential exponential(const Pair& x) {
  const double k = rint(x.hi * 0x1.71547652b82fep+0);
  const Pair high = sum_of(x.hi, -k * 0x1.62e42fefa38p-1);
  const Pair low = sum_of(-k * 0x1.ef35793c768p-45, k * 0x1.9ff0342542fc3p-90);
  const Pair r = add(add(high, {x.lo, 0.0}), low);
  double tail = 0x1.0ce396db7f853p-70;
  tail = fused(tail, r.hi, 0x1.71b8ef6dcf572p-66);
  tail = fused(tail, r.hi, 0x1.e542ba4020225p-62);
  tail = fused(tail, r.hi, 0x1.2f49b46814157p-57);
  tail = fused(tail, r.hi, 0x1.6827863b97d97p-53);
  tail = fused(tail, r.hi, 0x1.952c77030ad4ap-49);
  tail = fused(tail, r.hi, 0x1.ae7f3e733b81fp-45);
  tail = fused(tail, r.hi, 0x1.ae7f3e733b81fp-41);
  tail = fused(tail, r.hi, 0x1.93974a8c07c9dp-37);
  tail = fused(tail, r.hi, 0x1.6124613a86d09p-33);
  Pair s = horner(r, {tail, 0.0}, 0x1.1eed8eff8d898p-29, -0x1.2aec959e14c06p-83);
  s = horner(r, s, 0x1.ae64567f544e4p-26, -0x1.c062e06d1f209p-80);
  s = horner(r, s, 0x1.27e4fb7789f5cp-22, 0x1.cbbc05b4fa99ap-76);
  s = horner(r, s, 0x1.71de3a556c734p-19, -0x1.c154f8ddc6c00p-73);
  s = horner(r, s, 0x1.a01a01a01a01ap-16, 0x1.a01a01a01a01ap-76);
  s = horner(r, s, 0x1.a01a01a01a01ap-13, 0x1.a01a01a01a01ap-73);
  s = horner(r, s, 0x1.6c16c16c16c17p-10, -0x1.f49f49f49f49fp-65);
  s = horner(r, s, 0x1.1111111111111p-7, 0x1.1111111111111p-63);
  s = horner(r, s, 0x1.5555555555555p-5, 0x1.5555555555555p-59);
  s = horner(r, s, 0x1.5555555555555p-3, 0x1.5555555555555p-57);
  s = horner(r, s, 0.5, 0.0);
  s = horner(r, s, 1.0, 0.0);
  return {multiply(r, s), static_cast<int>(k)};
}
ISOLOGIT_DEVICE Pair value_of(const Exponential& e) { return scaled(add({1.0, 0.0}, e.p), power_of_two(e.k)); }

// e^x - 1 of -1000 < x < 1000, within 2^-96 of itself: where k is not 0 it is no less than 0.29.
ISOLOGIT_DEVICE Pair exp_less_one(const Pair& x) {
  const Exponential e = exponential(x);
  return e.k == 0 ? e.p : add(value_of(e), {-1.0, 0.0});
}

// ln(1 + x) of 2^-800 < x < 2^66, within 2^-95 of itself for the x that it is given, or NaN. The function of the
// platform is a guess y; what (1 + x) e^-y has beyond 1 shows how good it is, and corrects it.
ISOLOGIT_DEVICE Pair log_one_plus(const Pair& x) {
  const double guess = log1p(x.hi);
  const Exponential e = exponential({-guess, 0.0});
  const Pair beyond =
      e.k == 0 ? add(add(x, e.p), multiply(x, e.p)) : add(multiply(add({1.0, 0.0}, x), value_of(e)), {-1.0, 0.0});
  // The third power of this, in ln(1 + beyond), would be below 2^-124 of the guess.
  if (!(fabs(beyond.hi) <= guess * 0x1p-44)) return {bit_cast<double>(~std::uint64_t{0} >> 1), 0.0};
  return sum_of(guess, beyond.hi - 0.5 * beyond.hi * beyond.hi);
}

// a + b rounded once to a type. The sum is first rounded to odd in f64, which keeps on which side of every number of
// the type and every midpoint it lies.
ISOLOGIT_DEVICE float round_sum(double a, double b, int type = kF32) {
  const double rest = two_sum(a, b);
  auto bits = bit_cast<std::uint64_t>(a);
  if (rest != 0 && (bits & 1U) == 0) bits += (rest > 0) == (a > 0) ? std::uint64_t{1} : ~std::uint64_t{0};
  return round_once(bit_cast<double>(bits), type);
}

// The same of (a + b) + (c + d), whatever their sizes. First the sum as four numbers of which none overlaps the next
// (Shewchuk's Grow-Expansion); the first two of what these are from above decide: what follows is smaller than the
// second's last bit, and so does not change on which side of the first the sum lies.
ISOLOGIT_DEVICE float round_sum(const Pair& ab, const Pair& cd, int type = kF32) {
  double first = ab.hi;
  double second = two_sum(first, ab.lo);
  double third = second;
  double carried = cd.hi;
  // In ascending order: third, second, first.
  third = two_sum(carried, second);
  second = two_sum(carried, first);
  first = carried;
  carried = cd.lo;
  const double fourth = two_sum(carried, third);
  third = two_sum(carried, second);
  second = two_sum(carried, first);
  first = carried;
  double rest = two_sum(first, second);
  if (rest == 0) rest = two_sum(first, third);
  if (rest == 0) rest = fourth;
  return round_sum(first, rest, type);
}

}  // namespace isologit::detail::cuda
