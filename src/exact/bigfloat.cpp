#include "exact/bigfloat.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

namespace isologit::detail::exact {
namespace {

__extension__ using u128 = unsigned __int128;

std::int64_t floor_div64(std::int64_t x) { return x >> 6; }

// The limb of weight 2^(64 position), 0 outside.
std::uint64_t limb_at(const BigFloat& x, std::int64_t position) {
  const std::int64_t i = position - x.exponent;
  return i < 0 || i >= static_cast<std::int64_t>(x.limbs.size()) ? 0 : x.limbs[static_cast<std::size_t>(i)];
}

// |a| + |b|, or |a| - |b| where |a| >= |b|, from limb `low` upward.
BigFloat combine_magnitudes(const BigFloat& a, const BigFloat& b, bool subtract, std::int64_t low) {
  const std::int64_t high = std::max(a.top(), b.top()) + 1;
  BigFloat sum;
  sum.exponent = low;
  sum.limbs.reserve(static_cast<std::size_t>(high - low));
  std::uint64_t carry = 0;
  for (std::int64_t position = low; position < high; ++position) {
    const std::uint64_t x = limb_at(a, position);
    const std::uint64_t y = limb_at(b, position);
    const u128 wide = subtract ? u128{x} - y - carry : u128{x} + y + carry;
    sum.limbs.push_back(static_cast<std::uint64_t>(wide));
    carry = static_cast<std::uint64_t>(wide >> 64) & 1U;
  }
  trim(sum);
  return sum;
}

}  // namespace

void trim(BigFloat& x) {
  while (!x.limbs.empty() && x.limbs.back() == 0) x.limbs.pop_back();
  const auto low = static_cast<std::size_t>(
      std::find_if(x.limbs.begin(), x.limbs.end(), [](std::uint64_t limb) { return limb != 0; }) - x.limbs.begin());
  if (low > 0) {
    x.limbs.erase(x.limbs.begin(), x.limbs.begin() + static_cast<std::ptrdiff_t>(low));
    x.exponent += static_cast<std::int64_t>(low);
  }
  if (x.limbs.empty()) x = BigFloat{};
}

BigFloat BigFloat::from_double(double finite) {
  BigFloat x;
  if (finite == 0) return x;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(finite), &exponent);
  const auto significand = static_cast<std::uint64_t>(std::ldexp(fraction, 53));
  x.limbs = {significand};
  x = scale_by_power_of_two(x, exponent - 53);
  x.negative = finite < 0;
  return x;
}

BigFloat BigFloat::power_of_two(std::int64_t exponent) {
  BigFloat x;
  x.exponent = floor_div64(exponent);
  x.limbs = {std::uint64_t{1} << (exponent & 63)};
  return x;
}

BigFloat negate(BigFloat x) {
  if (!x.is_zero()) x.negative = !x.negative;
  return x;
}

BigFloat add(const BigFloat& a, const BigFloat& b) {
  if (a.is_zero()) return b;
  if (b.is_zero()) return a;
  return add(a, b, std::min(a.exponent, b.exponent));
}

BigFloat subtract(const BigFloat& a, const BigFloat& b) { return add(a, negate(b)); }

BigFloat add(const BigFloat& a, const BigFloat& b, std::int64_t lowest) {
  const bool swap = compare_magnitude(a, b) < 0;
  const BigFloat& large = swap ? b : a;
  const BigFloat& small = swap ? a : b;
  const std::int64_t low = std::max(lowest, std::min(a.exponent, b.exponent));
  BigFloat sum = combine_magnitudes(large, small, a.negative != b.negative, low);
  if (!sum.is_zero()) sum.negative = large.negative;
  return sum;
}

BigFloat multiply(const BigFloat& a, const BigFloat& b) {
  BigFloat product;
  if (a.is_zero() || b.is_zero()) return product;
  product.negative = a.negative != b.negative;
  product.exponent = a.exponent + b.exponent;
  product.limbs.assign(a.limbs.size() + b.limbs.size(), 0);
  for (std::size_t i = 0; i < a.limbs.size(); ++i) {
    std::uint64_t carry = 0;
    for (std::size_t j = 0; j < b.limbs.size(); ++j) {
      const u128 wide = u128{a.limbs[i]} * b.limbs[j] + product.limbs[i + j] + carry;
      product.limbs[i + j] = static_cast<std::uint64_t>(wide);
      carry = static_cast<std::uint64_t>(wide >> 64);
    }
    product.limbs[i + b.limbs.size()] = carry;
  }
  trim(product);
  return product;
}

BigFloat scale_by_power_of_two(const BigFloat& x, std::int64_t shift) {
  if (x.is_zero()) return x;
  BigFloat scaled = x;
  scaled.exponent += floor_div64(shift);
  const auto bits = static_cast<int>(shift & 63);
  if (bits == 0) return scaled;
  std::uint64_t carry = 0;
  for (std::uint64_t& limb : scaled.limbs) {
    const std::uint64_t up = limb >> (64 - bits);
    limb = limb << bits | carry;
    carry = up;
  }
  scaled.limbs.push_back(carry);
  trim(scaled);
  return scaled;
}

bool truncate(BigFloat& x, std::size_t limbs) {
  if (x.limbs.size() <= limbs) return false;
  const std::size_t dropped = x.limbs.size() - limbs;
  x.limbs.erase(x.limbs.begin(), x.limbs.begin() + static_cast<std::ptrdiff_t>(dropped));
  x.exponent += static_cast<std::int64_t>(dropped);
  trim(x);
  return true;
}

int sign_of(const BigFloat& x) { return x.is_zero() ? 0 : x.negative ? -1 : 1; }

int compare_magnitude(const BigFloat& a, const BigFloat& b) {
  if (a.is_zero() || b.is_zero()) return static_cast<int>(!a.is_zero()) - static_cast<int>(!b.is_zero());
  if (a.top() != b.top()) return a.top() < b.top() ? -1 : 1;
  const std::int64_t low = std::min(a.exponent, b.exponent);
  for (std::int64_t position = a.top() - 1; position >= low; --position) {
    const std::uint64_t x = limb_at(a, position);
    const std::uint64_t y = limb_at(b, position);
    if (x != y) return x < y ? -1 : 1;
  }
  return 0;
}

std::int64_t lowest_bit(const BigFloat& x) { return 64 * x.exponent + std::countr_zero(x.limbs.front()); }

std::int64_t highest_bit(const BigFloat& x) { return 64 * x.top() - 1 - std::countl_zero(x.limbs.back()); }

namespace {

Leading leading_bits(const BigFloat& x) {
  const std::size_t n = x.limbs.size();
  const int zeros = std::countl_zero(x.limbs.back());
  const std::uint64_t next = n > 1 ? x.limbs[n - 2] : 0;
  std::uint64_t leading = x.limbs.back() << zeros;
  if (zeros > 0) leading |= next >> (64 - zeros);
  const bool sticky = n > 2 || (next << zeros) != 0;  // a third limb is never all zero below
  return {leading, highest_bit(x), sticky};
}

}  // namespace

Approximation approximate(const BigFloat& x) {
  const Leading bits = leading_bits(x);
  const double mantissa = std::ldexp(static_cast<double>(bits.leading), -63);
  return {x.negative ? -mantissa : mantissa, bits.exponent};
}

double round(const BigFloat& x, const Format& format) {
  if (x.is_zero()) return 0.0;
  return round_to(format, x.negative, leading_bits(x));
}

double round_sum(const BigFloat& finite, double special, const Format& format) {
  if (std::isnan(special)) return static_cast<double>(quiet_nan());
  return special != 0 ? special : round(finite, format);
}

double round_beside(const BigFloat& boundary, int side, const Format& format) {
  if (side == 0) return round(boundary, format);
  // Far below half of the smallest subnormal number, of which all boundaries are multiples.
  BigFloat nudge = BigFloat::power_of_two(format.emin - format.precision - 64);
  nudge.negative = side < 0;
  return round(add(boundary, nudge), format);
}

}  // namespace isologit::detail::exact
