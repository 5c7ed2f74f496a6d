#include "oracle/encoded.hpp"

#include <cmath>
#include <limits>

#include "oracle/round.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// By the fields of the OCP 8-bit floating point specification.
double f8_value(Encoding encoding, std::uint8_t bits) {
  const bool e4m3 = encoding == Encoding::f8_e4m3;
  const int fraction_bits = e4m3 ? 3 : 2;
  const int bias = e4m3 ? 7 : 15;
  const int fields = bits & 0x7F;
  const int exponent = fields >> fraction_bits;
  const int fraction = fields & ((1 << fraction_bits) - 1);
  double magnitude;
  if (e4m3 && fields == 0x7F) {
    magnitude = kNaN;
  } else if (!e4m3 && exponent == 31) {
    magnitude = fraction == 0 ? kInf : kNaN;
  } else if (exponent == 0) {
    magnitude = fraction * std::pow(2.0, 1 - bias - fraction_bits);
  } else {
    magnitude = ((1 << fraction_bits) + fraction) * std::pow(2.0, exponent - bias - fraction_bits);
  }
  return bits >= 0x80 ? -magnitude : magnitude;
}

// The IEEE product of two factors of which one is not finite; of a rational only the sign counts.
double special_product(double a, const Number& b) { return a * (b.special != 0 ? b.special : sgn(b.finite)); }

}  // namespace

Number number_of(double x) { return std::isfinite(x) ? Number{mpq_class(x), 0} : Number{0, x}; }

Number f8_number(Encoding encoding, std::uint8_t bits, double scale, F8Product product) {
  const double value = f8_value(encoding, bits);
  if (!std::isfinite(value) || !std::isfinite(scale)) return {0, special_product(scale, number_of(value))};
  const mpq_class real = mpq_class(value) * mpq_class(scale);
  return product == F8Product::real ? Number{real, 0} : number_of(round_to(real, format_bf16));
}

Number sum_of(const std::vector<double>& h, const std::vector<Number>& w, double bias) {
  Number sum = number_of(bias);
  for (std::size_t k = 0; k < h.size(); ++k) {
    if (std::isfinite(h[k]) && w[k].special == 0) {
      sum.finite += mpq_class(h[k]) * w[k].finite;
    } else {
      sum.special += special_product(h[k], w[k]);
    }
  }
  return sum;
}

float rounded(const Number& x, DType result) {
  if (std::isnan(x.special)) return quiet_nan();
  if (x.special != 0) return static_cast<float>(x.special);
  return static_cast<float>(round_to(x.finite, format_of(result)));
}

}  // namespace isologit::oracle
