// An exact sum of products of f32 numbers: a fixed-point register wide enough for every partial sum.
#pragma once

#include <array>
#include <cstdint>

#include "base/bytes.hpp"
#include "exact/bigfloat.hpp"
#include "exact/rounding.hpp"

namespace isologit::detail::exact {

// Holds a multiple of 2^-298, the square of the smallest f32 subnormal. A product of two f32 numbers lies below 2^256;
// 20 digits of 32 bits leave 86 bits above that, more than any count of terms can fill.
class Superaccumulator {
 public:
  // Adds a finite double that is a multiple of 2^-298 and below 2^257 in magnitude: the product of two elements
  // (at most 48 significant bits, so it is exact in double) or one element.
  void add(double term);

  bool is_zero();

  // The sum, rounded once.
  double round(const Format& format);

  BigFloat value();

  void write(base::ByteWriter& bytes);
  // Adds what another one wrote. False when the bytes are not that.
  bool add_read(base::ByteReader& bytes);

 private:
  static constexpr int kDigits = 20;
  static constexpr int kLowest = -298;

  // The magnitude after a carry, and whether the sum is below 0.
  Superaccumulator magnitude(bool& negative);
  // Brings every digit but the highest into [0, 2^32); the highest carries the sign.
  void carry();

  std::array<std::int64_t, kDigits> digits_{};  // value = sum of digits_[i] * 2^(32 i + kLowest)
  int adds_until_carry_ = 1 << 30;              // each add moves a digit by less than 2^32; 2^30 of them fit in 63 bits
};

// The sum of real numbers, rounded once, with the special values of CONTRACT.md 1.
class Sum {
 public:
  // A term that is not finite is remembered apart: inf, -inf, or NaN where both came.
  void add(double term);

  // Exact as a double.
  double round(const Format& format);

  // The sum of the terms that are finite, and the IEEE sum of those that are not, 0 where there are none.
  BigFloat finite() { return sum_.value(); }
  double special() const { return special_; }

  void write(base::ByteWriter& bytes);
  // Adds what another one wrote. False when the bytes are not that.
  bool add_read(base::ByteReader& bytes);

 private:
  Superaccumulator sum_;
  double special_ = 0;
};

}  // namespace isologit::detail::exact
