// Sums of two doubles and what their rounding loses.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace isologit::detail::exact {

// high + low, |low| at most half an ulp of high.
struct TwoSum {
  double high;
  double low;
};

// a + b exactly, finite and without overflow (Knuth, The Art of Computer Programming, volume 2, section 4.2.2).
inline TwoSum two_sum(double a, double b) {
  const double high = a + b;
  const double share = high - a;
  return {high, (a - (high - share)) + (b - share)};
}

// a + b rounded to a double whose lowest bit is set wherever it was not exact: rounding that once more to a format of
// at most 50 bits is rounding a + b once (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved
// algorithms using rounding to odd", 2008).
inline double to_odd(double a, double b) {
  const auto [high, low] = two_sum(a, b);
  const auto bits = std::bit_cast<std::uint64_t>(high);
  if (low == 0 || (bits & 1U) != 0 || !std::isfinite(high)) return high;
  return std::bit_cast<double>((low > 0) == (high > 0) ? bits + 1 : bits - 1);
}

}  // namespace isologit::detail::exact
