// Rounding a real number, given by its leading bits, once to a binary format: to nearest, ties to even, overflow to
// infinity, subnormals kept, and every zero +0 (CONTRACT.md 0).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace isologit::detail::exact {

struct Format {
  int precision;  // significant bits, the leading one included
  int emin;       // exponent of the smallest normal number
  int emax;       // exponent of the largest finite number
};
constexpr Format kF64{53, -1022, 1023};
constexpr Format kF32{24, -126, 127};
constexpr Format kBf16{8, -126, 127};
constexpr Format kF16{11, -14, 15};

// The boundaries between two roundings to a format are numbers with one bit more.
constexpr Format boundaries_of(const Format& format) { return {format.precision + 1, format.emin, format.emax}; }

inline float quiet_nan() { return std::bit_cast<float>(0x7FC00000U); }

// A nonzero magnitude: its leading 64 bits (the highest bit of `leading` is set and stands for 2^exponent), and
// whether anything nonzero follows them.
struct Leading {
  std::uint64_t leading;
  std::int64_t exponent;
  bool sticky;
};

// The result is a double that holds the format's value exactly.
inline double round_to(const Format& format, bool negative, const Leading& x) {
  const double infinity = std::numeric_limits<double>::infinity();
  if (x.exponent > format.emax) return negative ? -infinity : infinity;
  // The weight of the last kept bit: precision bits for normal numbers, fewer for subnormal ones.
  const std::int64_t last = (x.exponent < format.emin ? format.emin : x.exponent) - (format.precision - 1);
  const std::int64_t dropped = last - (x.exponent - 63);  // how many of the 64 leading bits lie below it
  if (dropped > 64) return 0.0;                           // below half of the smallest subnormal number
  std::uint64_t kept = dropped == 64 ? 0 : x.leading >> dropped;
  const bool half = ((x.leading >> (dropped - 1)) & 1U) != 0;
  const bool below_half = x.sticky || (x.leading & ((std::uint64_t{1} << (dropped - 1)) - 1)) != 0;
  if (half && (below_half || (kept & 1U) != 0)) ++kept;
  if (kept == 0) return 0.0;
  const double magnitude = std::ldexp(static_cast<double>(kept), static_cast<int>(last));
  // f64 overflows to infinity by itself.
  if (format.emax < kF64.emax && magnitude >= std::ldexp(1.0, format.emax + 1)) return negative ? -infinity : infinity;
  return negative ? -magnitude : magnitude;
}

}  // namespace isologit::detail::exact
