#include "oracle/logit.hpp"

#include <array>
#include <cmath>

#include "oracle/interval.hpp"

namespace isologit::oracle {
namespace {

__extension__ using Int128 = __int128;

// An exact sum of doubles that are multiples of 2^-298 and below 2^258: products of two f32 numbers, and f32 numbers.
// Bin i counts units of 2^(32 i - 298). A 53-bit significand shifted by less than 32 bits leaves 42 bits for carries.
class ExactSum {
 public:
  void add(double x) {
    if (x == 0) return;
    int exponent;
    const auto significand = static_cast<std::int64_t>(std::ldexp(std::frexp(x, &exponent), 53));
    exponent -= 53;  // x = significand · 2^exponent
    int above = exponent + 298;
    std::int64_t shifted = significand;
    if (above < 0) {
      shifted >>= -above;  // the bits shifted out are zeros: x is a multiple of 2^-298
      above = 0;
    }
    bins_[static_cast<std::size_t>(above / 32)] += static_cast<Int128>(shifted) * (Int128{1} << (above % 32));
  }

  mpq_class value() const {
    mpz_class sum = 0;
    for (std::size_t i = bins_.size(); i-- > 0;) {
      const auto high = static_cast<std::int64_t>(bins_[i] >> 64);
      const auto low = static_cast<std::uint64_t>(bins_[i]);
      mpz_class bin = high;
      bin <<= 64;
      bin += low;
      sum <<= 32;
      sum += bin;
    }
    mpq_class result(sum);
    mpq_div_2exp(result.get_mpq_t(), result.get_mpq_t(), 298);
    return result;
  }

 private:
  std::array<Int128, 18> bins_{};
};

}  // namespace

float dot(const Terms& terms, double bias, DType result) {
  ExactSum sum;
  bool has_nan = std::isnan(bias);
  bool has_plus_inf = bias > 0 && std::isinf(bias);
  bool has_minus_inf = bias < 0 && std::isinf(bias);
  for (std::size_t k = 0; k < terms.count; ++k) {
    // Exact: 24 by 24 bits, exponents well within range. inf·0 is NaN here as in the contract.
    const double product = terms.h[k * terms.h_stride] * terms.w[k * terms.w_stride];
    if (std::isfinite(product)) {
      sum.add(product);
    } else if (std::isnan(product)) {
      has_nan = true;
    } else {
      (product > 0 ? has_plus_inf : has_minus_inf) = true;
    }
  }
  if (has_nan || (has_plus_inf && has_minus_inf)) return quiet_nan();
  if (has_plus_inf) return std::numeric_limits<float>::infinity();
  if (has_minus_inf) return -std::numeric_limits<float>::infinity();
  sum.add(bias);
  return static_cast<float>(round_to(sum.value(), format_of(result)));
}

namespace {

float rounded(const mpq_class& x, DType result) { return static_cast<float>(round_to(x, format_of(result))); }

}  // namespace

Extended& Extended::operator+=(const Extended& other) {
  finite_ += other.finite_;
  special_ += other.special_;  // inf - inf is NaN here as in the contract
  return *this;
}

Extended Extended::operator*(const Extended& other) const {
  Extended product(0);
  if (special_ == 0 && other.special_ == 0) {
    product.finite_ = finite_ * other.finite_;
  } else {
    product.special_ = ieee() * other.ieee();
  }
  return product;
}

float Extended::round(DType result) const {
  if (std::isnan(special_)) return quiet_nan();
  if (special_ != 0) return static_cast<float>(special_);
  return static_cast<float>(round_to(finite_, format_of(result)));
}

std::vector<Extended> low_rank_factors(const double* h, const double* a, std::size_t rank, std::size_t count,
                                       double scale) {
  std::vector<Extended> factors;
  for (std::size_t j = 0; j < rank; ++j) {
    Extended inner(0);
    for (std::size_t k = 0; k < count; ++k) inner += Extended(a[j * count + k]) * Extended(h[k]);
    factors.push_back(Extended(scale) * inner);
  }
  return factors;
}

float low_rank_logit(const Terms& terms, double bias, const std::vector<Extended>& factors, const double* b,
                     DType result) {
  Extended sum(bias);
  for (std::size_t k = 0; k < terms.count; ++k) {
    sum += Extended(terms.h[k * terms.h_stride]) * Extended(terms.w[k * terms.w_stride]);
  }
  for (std::size_t j = 0; j < factors.size(); ++j) sum += Extended(b[j]) * factors[j];
  return sum.round(result);
}

float softcap(float z, float c, DType result) {
  if (std::isnan(z)) return quiet_nan();
  if (std::isinf(z)) return rounded(z > 0 ? mpq_class(c) : mpq_class(-c), result);
  if (z == 0) return 0.0F;
  // c·tanh(z/c) is transcendental, so never on a midpoint. But it hugs z where z is small, and ±c where z is large, and
  // these may be midpoints of a type narrower than f32: far out the difference to ±c, which is tiny, decides.
  const mpq_class argument = mpq_class(z) / mpq_class(c);
  const int sign = z > 0 ? 1 : -1;
  const bool far_out = abs(argument) > 2;
  const mpq_class cap = sign * mpq_class(c);
  return decide([&](mpfr_prec_t precision) -> std::optional<float> {
    std::optional<double> found;
    if (far_out) {
      // c·tanh(x) = c - 2c / (e^2x + 1)
      const Interval grown = exp(Interval(2 * abs(argument), precision)) + Interval(mpq_class(1), precision);
      found = round_sum(cap, Interval(-2 * cap, precision) / grown, -sign, format_of(result));
    } else {
      const Interval value = Interval(mpq_class(c), precision) * tanh(Interval(argument, precision));
      found = round_sum(0, value, sign, format_of(result));
    }
    if (!found) return std::nullopt;
    return static_cast<float>(*found);
  });
}

float scale_multiply(float z, float s, DType result) {
  if (std::isnan(z)) return quiet_nan();
  if (std::isinf(z)) return s > 0 ? z : -z;
  return rounded(mpq_class(z) * mpq_class(s), result);
}

float scale_divide(float z, float d, DType result) {
  if (std::isnan(z)) return quiet_nan();
  if (std::isinf(z)) return z;
  return rounded(mpq_class(z) / mpq_class(d), result);
}

float temperature(float z, float t, DType result) { return scale_divide(z, t, result); }

namespace {

float scaled_by(float z, const Transforms& transforms, DType result) {
  if (transforms.scale_kind == ScaleKind::multiply) return scale_multiply(z, transforms.scale, result);
  if (transforms.scale_kind == ScaleKind::divide) return scale_divide(z, transforms.scale, result);
  return z;
}

}  // namespace

float before_softcap(float z, const Transforms& transforms) {
  return transforms.order == TransformOrder::scale_first ? scaled_by(z, transforms, DType::f32) : z;
}

float transform(float z, const Transforms& transforms, float t) {
  if (transforms.order == TransformOrder::scale_first) z = scaled_by(z, transforms, DType::f32);
  if (transforms.has_softcap) z = softcap(z, transforms.softcap);
  if (transforms.order == TransformOrder::softcap_first) z = scaled_by(z, transforms, DType::f32);
  return temperature(z, t);
}

float last_logit(const Terms& terms, double bias, const Transforms& transforms, float t, DType result) {
  const bool scaled = transforms.scale_kind != ScaleKind::none && transforms.scale != 1;
  const bool capped = transforms.has_softcap;
  const bool heated = t != 1;
  const bool scale_first = transforms.order == TransformOrder::scale_first;
  const auto type = [&](bool more_follows) { return more_follows ? DType::f32 : result; };
  float z = dot(terms, bias, type(capped || scaled || heated));
  if (scaled && scale_first) z = scaled_by(z, transforms, type(capped || heated));
  if (capped) z = softcap(z, transforms.softcap, type((scaled && !scale_first) || heated));
  if (scaled && !scale_first) z = scaled_by(z, transforms, type(heated));
  if (heated) z = temperature(z, t, result);
  return z;
}

}  // namespace isologit::oracle
