#include "exact/superaccumulator.hpp"

#include <bit>
#include <cmath>

namespace isologit::detail::exact {

void Superaccumulator::add(double term) {
  if (term == 0) return;
  const auto bits = std::bit_cast<std::uint64_t>(term);
  // Every admissible term is a normal double: 2^-298 lies far above the subnormal range.
  std::uint64_t significand = (bits & 0xFFFFFFFFFFFFFU) | 0x10000000000000U;
  int position = static_cast<int>((bits >> 52) & 0x7FFU) - 1075 - kLowest;
  if (position < 0) {  // the low bits that fall off are zero: the term is a multiple of 2^kLowest
    significand >>= -position;
    position = 0;
  }
  const int digit = position / 32;
  const int shift = position % 32;
  // significand << shift has at most 53 + 31 bits: three digits.
  const std::uint64_t low = (significand & 0xFFFFFFFFU) << shift;
  const std::uint64_t high = (significand >> 32) << shift;
  const auto d = static_cast<std::size_t>(digit);
  const auto d0 = static_cast<std::int64_t>(low & 0xFFFFFFFFU);
  const std::uint64_t middle = (low >> 32) + (high & 0xFFFFFFFFU);
  const auto d1 = static_cast<std::int64_t>(middle & 0xFFFFFFFFU);
  const auto d2 = static_cast<std::int64_t>((middle >> 32) + (high >> 32));
  const std::int64_t sign = (bits >> 63) != 0 ? -1 : 1;
  digits_[d] += sign * d0;
  digits_[d + 1] += sign * d1;
  digits_[d + 2] += sign * d2;
  if (--adds_until_carry_ == 0) carry();
}

void Superaccumulator::carry() {
  for (std::size_t i = 0; i + 1 < kDigits; ++i) {
    const std::int64_t up = digits_[i] >> 32;  // rounds down, so what stays is in [0, 2^32)
    digits_[i] -= up * (std::int64_t{1} << 32);
    digits_[i + 1] += up;
  }
  adds_until_carry_ = 1 << 30;
}

bool Superaccumulator::is_zero() {
  carry();
  for (const std::int64_t digit : digits_) {
    if (digit != 0) return false;
  }
  return true;
}

Superaccumulator Superaccumulator::magnitude(bool& negative) {
  carry();
  Superaccumulator magnitude = *this;
  negative = digits_[kDigits - 1] < 0;
  if (negative) {
    for (std::int64_t& digit : magnitude.digits_) digit = -digit;
    magnitude.carry();
  }
  return magnitude;
}

BigFloat Superaccumulator::value() {
  BigFloat result;
  const Superaccumulator positive = magnitude(result.negative);
  for (std::size_t i = 0; i < kDigits; i += 2) {
    result.limbs.push_back(static_cast<std::uint64_t>(positive.digits_[i]) |
                           static_cast<std::uint64_t>(positive.digits_[i + 1]) << 32);
  }
  trim(result);
  return scale_by_power_of_two(result, kLowest);
}

double Superaccumulator::round(const Format& format) {
  bool negative = false;
  const Superaccumulator magnitude = this->magnitude(negative);
  int top = kDigits - 1;
  while (top >= 0 && magnitude.digits_[static_cast<std::size_t>(top)] == 0) --top;
  if (top < 0) return 0.0;
  const auto digit = [&](int i) {
    return i < 0 ? std::uint64_t{0} : static_cast<std::uint64_t>(magnitude.digits_[static_cast<std::size_t>(i)]);
  };
  const int zeros = std::countl_zero(static_cast<std::uint32_t>(digit(top)));
  // 96 bits from the three leading digits, of which the first 64 after the leading zeros are taken.
  const std::uint64_t upper = digit(top) << 32 | digit(top - 1);
  std::uint64_t leading = upper << zeros;
  const std::uint64_t third = digit(top - 2);
  if (zeros > 0) leading |= third >> (32 - zeros);
  bool sticky = (third & ((std::uint64_t{1} << (32 - zeros)) - 1)) != 0;
  for (int i = 0; i < top - 2; ++i) sticky = sticky || digit(i) != 0;
  return round_to(format, negative, {leading, 32 * top + 31 - zeros + kLowest, sticky});
}

void Sum::add(double term) {
  if (std::isfinite(term)) {
    sum_.add(term);
  } else {
    special_ += term;
  }
}

double Sum::round(const Format& format) {
  if (std::isnan(special_)) return static_cast<double>(quiet_nan());
  return special_ != 0 ? special_ : sum_.round(format);
}

void Superaccumulator::write(base::ByteWriter& bytes) {
  carry();
  for (const std::int64_t digit : digits_) bytes.put(digit);
}

bool Superaccumulator::add_read(base::ByteReader& bytes) {
  carry();
  constexpr std::int64_t kMost = std::int64_t{1} << 60;  // of the highest digit; all others are below 2^32
  for (std::int64_t& digit : digits_) {
    std::int64_t other = 0;
    if (!bytes.get(other) || other < -kMost || other > kMost) return false;
    digit += other;
  }
  carry();
  return true;
}

void Sum::write(base::ByteWriter& bytes) {
  sum_.write(bytes);
  bytes.put(special_);
}

bool Sum::add_read(base::ByteReader& bytes) {
  double special = 0;
  if (!sum_.add_read(bytes) || !bytes.get(special)) return false;
  special_ += special;
  return true;
}

}  // namespace isologit::detail::exact
