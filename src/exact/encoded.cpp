#include "exact/encoded.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "exact/bigfloat.hpp"
#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "exact/low_rank_sum.hpp"

namespace isologit::detail::exact {
namespace {

// The leading 24 bits of a finite number.
double leading(double x) { return std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) & ~std::uint64_t{0x1FFFFFFF}); }

double e4m3(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 3 & 15U);
  const int fraction = static_cast<int>(bits & 7U);
  const double sign = (bits & 0x80U) != 0 ? -1 : 1;
  if (exponent == 15 && fraction == 7) return static_cast<double>(quiet_nan());
  if (exponent == 0) return sign * std::ldexp(fraction, -9);
  return sign * std::ldexp(8 + fraction, exponent - 10);
}

using F8Values = std::array<double, 256>;

const F8Values& f8_values(Encoding encoding) {
  static const std::array<F8Values, 2> all = [] {
    std::array<F8Values, 2> made{};
    for (unsigned bits = 0; bits < 256; ++bits) {
      made[0][bits] = e4m3(bits);
      made[1][bits] = static_cast<double>(f16_to_f32(static_cast<std::uint16_t>(bits << 8)));
    }
    return made;
  }();
  return all[encoding == Encoding::f8_e4m3 ? 0 : 1];
}

void decode_f8(const EncodedWeight& weight, const std::uint8_t* from, std::int64_t row, std::int64_t first,
               std::int64_t size, double* to) {
  const F8Values& values = f8_values(weight.encoding);
  const F8Scales& scales = weight.scales;
  const void* of_row =
      row_data(scales.values, scales.block_rows == 0 ? 0 : (scales.first_row + row) / scales.block_rows);
  std::int64_t end = 0;
  for (std::int64_t begin = 0; begin < size; begin = end) {
    const std::int64_t block = scales.block_cols == 0 ? 0 : (first + begin) / scales.block_cols;
    const std::int64_t left = scales.block_cols == 0 ? size : scales.block_cols - (first + begin) % scales.block_cols;
    end = left < size - begin ? begin + left : size;
    const auto scale = static_cast<double>(load_element(of_row, scales.values.dtype, block));
    for (std::int64_t k = begin; k < end; ++k) to[k] = values[from[k]] * scale;
  }
  if (weight.product == F8Product::real) return;
  for (std::int64_t k = 0; k < size; ++k) to[k] = narrow(to[k], DType::bf16);
}

}  // namespace

void decode(const Head& head, std::int64_t row, std::int64_t column, std::int64_t count, double* to) {
  const EncodedWeight& weight = head.encoded;
  const char* from = static_cast<const char*>(weight.data) +
                     (row * head.weight.row_stride + column) * static_cast<std::int64_t>(encoded_size(weight.encoding));
  if (weight.encoding == Encoding::f64) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(double));
  } else {
    decode_f8(weight, reinterpret_cast<const std::uint8_t*>(from), row, column, count, to);
  }
}

std::int64_t parts_of(const EncodedWeight& weight) {
  if (weight.encoding == Encoding::none) return 1;
  if (weight.encoding == Encoding::f64) return 3;
  return weight.product == F8Product::real && weight.scales.values.dtype == DType::f32 ? 2 : 1;
}

bool split(double number, std::int64_t parts, float* to, std::int64_t stride) {
  double rest = number;
  for (std::int64_t p = 0; p < parts; ++p) {
    const double part = std::isfinite(rest) ? leading(rest) : rest;
    const auto element = static_cast<float>(part);
    to[p * stride] = element;
    // Of one part an infinity or a NaN may be an element: those that the number was.
    if (parts == 1 && !std::isfinite(number)) return true;
    if (static_cast<double>(element) != part) return false;
    rest -= part;  // exact: the bits that were cut off
  }
  return rest == 0;
}

double wide_logit(const void* hidden, DType hidden_dtype, const double* weight, std::int64_t size, float bias,
                  const LowRankTerms& low_rank, const Format& format) {
  BigFloat sum;
  double special = 0;  // the IEEE sum of the terms that are not finite
  const auto add_term = [&](double a, double b) {
    if (!std::isfinite(a) || !std::isfinite(b)) {
      special += a * b;
    } else if (a != 0 && b != 0) {
      sum = add(sum, multiply(BigFloat::from_double(a), BigFloat::from_double(b)));
    }
  };
  for (std::int64_t k = 0; k < size; ++k) {
    add_term(static_cast<double>(load_element(hidden, hidden_dtype, k)), weight[k]);
  }
  add_term(static_cast<double>(bias), 1);
  add_terms(low_rank, sum, special);
  return round_sum(sum, special, format);
}

}  // namespace isologit::detail::exact
