// The fold behind mean_logits: the sum of a row's logits over the support, exactly. Every f32 is a 24-bit integer times
// a power of two; of each run of eight exponents the integers are added up in 64 bits, each below 2^31: sums of up to
// 2^32 logits.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "base/bytes.hpp"
#include "exact/bigfloat.hpp"
#include "exact/quotient.hpp"
#include "exact/rounding.hpp"

namespace isologit::detail::fold {

struct MeanLogits {
  std::array<std::uint64_t, 32> sums{};  // two's complement, so that damaged states overflow without harm
  std::int64_t count = 0;
  bool has_nan = false;
  bool has_plus_infinity = false;
  bool has_minus_infinity = false;

  // in_support: null where all ids are in the support.
  void absorb(const float* logits, const std::uint8_t* in_support, std::int64_t logit_count) {
    for (std::int64_t j = 0; j < logit_count; ++j) {
      if (in_support == nullptr || in_support[j] != 0) add(logits[j]);
    }
  }

  void merge(const MeanLogits& other) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += other.sums[i];
    count += other.count;
    has_nan = has_nan || other.has_nan;
    has_plus_infinity = has_plus_infinity || other.has_plus_infinity;
    has_minus_infinity = has_minus_infinity || other.has_minus_infinity;
  }

  float finish() const {
    if (count == 0 || has_nan || (has_plus_infinity && has_minus_infinity)) return exact::quiet_nan();
    if (has_plus_infinity) return std::numeric_limits<float>::infinity();
    if (has_minus_infinity) return -std::numeric_limits<float>::infinity();
    exact::BigFloat sum;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const auto part = static_cast<std::int64_t>(sums[i]);
      // In halves that doubles hold.
      const auto low = static_cast<double>(part & 0xFFFFFFFF);
      const auto high = static_cast<double>(part >> 32) * 0x1p32;
      const exact::BigFloat whole = exact::add(exact::BigFloat::from_double(low), exact::BigFloat::from_double(high));
      sum = exact::add(sum, exact::scale_by_power_of_two(whole, 8 * static_cast<std::int64_t>(i) - 150));
    }
    return exact::round_quotient(sum, exact::BigFloat::from_double(static_cast<double>(count)));
  }

  void write(base::ByteWriter& bytes) const {
    for (const std::uint64_t sum : sums) bytes.put(sum);
    bytes.put(count);
    bytes.put(has_nan);
    bytes.put(has_plus_infinity);
    bytes.put(has_minus_infinity);
  }
  // False when the bytes are not such a state.
  bool read(base::ByteReader& bytes) {
    unsigned char flags[3] = {};
    bool read = true;
    for (std::uint64_t& sum : sums) read = read && bytes.get(sum);
    read = read && bytes.get_count(count);
    for (unsigned char& flag : flags) read = read && bytes.get(flag);
    has_nan = flags[0] != 0;
    has_plus_infinity = flags[1] != 0;
    has_minus_infinity = flags[2] != 0;
    return read;
  }

 private:
  void add(float z) {
    ++count;
    const auto bits = std::bit_cast<std::uint32_t>(z);
    const std::uint32_t exponent = bits >> 23 & 0xFFU;
    const std::uint32_t fraction = bits & 0x7FFFFFU;
    const bool negative = bits >> 31 != 0;
    if (exponent == 0xFF) {
      has_nan = has_nan || fraction != 0;
      has_plus_infinity = has_plus_infinity || (fraction == 0 && !negative);
      has_minus_infinity = has_minus_infinity || (fraction == 0 && negative);
      return;
    }
    // In units of 2^-150 times the run's least power; a subnormal number is its fraction times 2^-149.
    const std::uint64_t digits = exponent == 0 ? std::uint64_t{fraction} << 1 : std::uint64_t{fraction} | 0x800000U;
    const std::uint64_t part = digits << (exponent & 7U);
    sums[exponent >> 3] += negative ? ~part + 1 : part;
  }
};

}  // namespace isologit::detail::fold
