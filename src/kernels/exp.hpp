// e^z in f64 by reduction and a polynomial: the constants, and what they prove.
//
// For |z| <= 2^20 + 1000: k = round(z log2 e), r = z - k ln 2, e^z = 2^k e^r, |r| < 0.3467.
//   ln 2 = kLn2High + kLn2Low to 2^-86: kLn2High has 32 bits and |k| < 2^21, so k kLn2High is exact; so is
//   z - k kLn2High (both are multiples of 2^-32 or k = 0, and the result is below 1/2). The second subtraction rounds
//   by at most 2^-55, k kLn2Low by 2^-65, the representation of ln 2 costs 2^-65: r is within 2^-54.9. e^r = sum of r^n
//   / n! to n = 13 in Horner's form: truncation 2^-57; the last two steps (1 + r (1 + r (...))) round by 2^-53 and
//   2^-54.5 (product) or less, the earlier ones by a third of the one after; with e^r > 0.707 and the error of r, in
//   all below 2^-51.5 relative, and below 2^-50 where products and sums round apart.
#pragma once

namespace isologit::detail::kernels {

constexpr double kLog2E = 0x1.71547652b82fep0;
constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, held in the low bits
// 1 / n! from n = 13 down to 0.
constexpr double kExpCoefficients[] = {1.0 / 6227020800.0,
                                       1.0 / 479001600.0,
                                       1.0 / 39916800.0,
                                       1.0 / 3628800.0,
                                       1.0 / 362880.0,
                                       1.0 / 40320.0,
                                       1.0 / 5040.0,
                                       1.0 / 720.0,
                                       1.0 / 120.0,
                                       1.0 / 24.0,
                                       1.0 / 6.0,
                                       0.5,
                                       1.0,
                                       1.0};

}  // namespace isologit::detail::kernels
