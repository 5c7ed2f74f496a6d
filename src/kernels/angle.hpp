// Sine and cosine of an angle, a whole number in [0, 2^31) times an f32 in [0, 1]: the constants, and what they prove.
//
// The angle is a + b, both exact: 15 and 16 bits of the position times 24 of the frequency. It is reduced by k pi / 2,
// pi / 2 being the sum of four parts of which the first three have 22 bits, so their products with k < 2^31 are exact.
// a - k part 1 is exact (its grid is 2^-8 frequency or 2^-21, its size below 2^16 frequency + 2^9); the four operations
// after it round by at most 2^-54 each, results being below 1 once b is in, or are exact. The parts end 2^-123 of a
// turn before pi / 2 does. So the reduced angle r is within 2^-52, |r| < 0.7855, and Taylor's polynomials end within
// 2^-58 of sine and cosine (r^19 / 19!, r^18 / 18!) and round by less than 2^-52.
#pragma once

namespace isologit::detail::kernels {

constexpr double kHalfPi[] = {0x1.921fb00000000p+0, 0x1.5110b00000000p-22, 0x1.1846980000000p-44,
                              0x1.3198a2e037073p-69};
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
// 1 / n! for n = 17, 15, ... 3, of r - r^3 (...), and for n = 16, 14, ... 2, of 1 - r^2 (...).
constexpr double kSineCoefficients[] = {
    1.0 / 355687428096000.0, 1.0 / 1307674368000.0, 1.0 / 6227020800.0, 1.0 / 39916800.0,
    1.0 / 362880.0,          1.0 / 5040.0,          1.0 / 120.0,        1.0 / 6.0};
constexpr double kCosineCoefficients[] = {
    1.0 / 20922789888000.0, 1.0 / 87178291200.0, 1.0 / 479001600.0, 1.0 / 3628800.0,
    1.0 / 40320.0,          1.0 / 720.0,         1.0 / 24.0,        0.5};

}  // namespace isologit::detail::kernels
