#include "oracle/forward.hpp"

#include <cmath>
#include <limits>
#include <map>

#include "oracle/interval.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double nan() { return static_cast<double>(quiet_nan()); }

bool all_finite(std::initializer_list<double> numbers) {
  for (const double x : numbers) {
    if (!std::isfinite(x)) return false;
  }
  return true;
}

mpq_class power(const mpq_class& base, unsigned exponent) {
  mpq_class result = 1;
  for (unsigned i = 0; i < exponent; ++i) result *= base;
  return result;
}

// The root of a rational number that is a square.
std::optional<mpq_class> rational_root(const mpq_class& x) {
  if (mpz_perfect_square_p(x.get_num_mpz_t()) == 0 || mpz_perfect_square_p(x.get_den_mpz_t()) == 0) return std::nullopt;
  mpz_class over, under;
  mpz_sqrt(over.get_mpz_t(), x.get_num_mpz_t());
  mpz_sqrt(under.get_mpz_t(), x.get_den_mpz_t());
  return mpq_class(over, under);
}

// shift + over / sqrt(under), under > 0.
double round_over_root(const mpq_class& shift, const mpq_class& over, const mpq_class& under, Format format) {
  if (const auto root = rational_root(under)) return round_to(shift + over / *root, format);
  return decide([&](mpfr_prec_t precision) {
    Interval root(under, precision);
    mpfr_sqrt(root.lo.get(), root.lo.get(), MPFR_RNDD);
    mpfr_sqrt(root.hi.get(), root.hi.get(), MPFR_RNDU);
    return round_sum(shift, Interval(over, precision) / root, sgn(over), format);
  });
}

// factor * x for an infinite or NaN operand, as IEEE has it, plus b.
double special(double product, double b) {
  const double result = product + b;
  return std::isnan(result) ? nan() : result + 0.0;
}

}  // namespace

double rms_norm(std::span<const double> x, std::size_t i, double w, double epsilon, bool one_plus_weight,
                Format format) {
  const double factor = one_plus_weight && !std::isfinite(w) ? w : one_plus_weight ? 1 + w : w;
  mpq_class squares = 0;
  bool infinite = false;
  for (const double element : x) {
    if (std::isnan(element)) return nan();
    if (std::isinf(element)) {
      infinite = true;
    } else {
      squares += power(mpq_class(element), 2);
    }
  }
  if (infinite) {  // a finite element is over an infinite root
    return std::isinf(x[i]) || !std::isfinite(x[i] * factor) ? nan() : 0.0;
  }
  const mpq_class under = squares / static_cast<unsigned long>(x.size()) + mpq_class(epsilon);
  if (under == 0) return nan();  // 0 / 0, whatever the weight
  if (!std::isfinite(w)) return special(x[i] * w, 0);
  const mpq_class weight = one_plus_weight ? mpq_class(1) + mpq_class(w) : mpq_class(w);
  return round_over_root(0, mpq_class(x[i]) * weight, under, format);
}

double layer_norm(std::span<const double> x, std::size_t i, double w, double b, double epsilon, Format format) {
  mpq_class mean = 0;
  for (const double element : x) {
    if (!std::isfinite(element)) return nan();
    mean += mpq_class(element);
  }
  mean /= static_cast<unsigned long>(x.size());
  mpq_class variance = 0;
  for (const double element : x) variance += power(mpq_class(element) - mean, 2);
  variance /= static_cast<unsigned long>(x.size());
  const mpq_class under = variance + mpq_class(epsilon);
  const mpq_class deviation = mpq_class(x[i]) - mean;
  if (under == 0 || std::isnan(b)) return nan();
  if (!all_finite({w, b})) return special(sgn(deviation) * w, b);
  return round_over_root(mpq_class(b), deviation * mpq_class(w), under, format);
}

double residual(double x, double multiplier, double a, double b, Format format) {
  if (!all_finite({x, a, b})) return special(x + multiplier * a, b);
  return round_to(mpq_class(x) + mpq_class(multiplier) * mpq_class(a) + mpq_class(b), format);
}

double gate(GateShape shape, const GateParameters& parameters, double g, std::optional<double> up, Format format) {
  double u = up.value_or(1);
  mpq_class shift = 0;
  double rate = 1;
  if (shape == GateShape::clamped_swish) {
    rate = parameters.alpha;
    if (g > parameters.limit) g = parameters.limit;
    if (up) {
      shift = 1;
      if (u > parameters.limit) u = parameters.limit;
      if (u < -parameters.limit) u = -parameters.limit;
    }
  }
  if (std::isnan(g) || std::isnan(u)) return nan();
  const bool shut = g == -kInfinity || (shape == GateShape::relu_squared && g <= 0) || g == 0;
  if (shut) return std::isinf(u) ? nan() : 0.0;
  if (std::isinf(g) || std::isinf(u)) {
    const int sign_of_u = std::isinf(u) ? (u > 0 ? 1 : -1) : sgn(mpq_class(mpq_class(u) + shift));
    if (sign_of_u == 0) return nan();
    return (g > 0 ? 1 : -1) * sign_of_u * kInfinity;
  }
  const mpq_class product = (mpq_class(u) + shift) * mpq_class(g);
  if (shape == GateShape::relu_squared) return round_to(product * mpq_class(g), format);
  if (product == 0) return 0;
  return decide([&](mpfr_prec_t precision) {
    Interval x(mpq_class(rate) * mpq_class(g), precision);
    if (shape == GateShape::gelu_tanh) {
      Interval pi(precision);
      mpfr_const_pi(pi.lo.get(), MPFR_RNDD);
      mpfr_const_pi(pi.hi.get(), MPFR_RNDU);
      Interval root = Interval(mpq_class(8), precision) / pi;
      mpfr_sqrt(root.lo.get(), root.lo.get(), MPFR_RNDD);
      mpfr_sqrt(root.hi.get(), root.hi.get(), MPFR_RNDU);
      const mpq_class cubic(static_cast<double>(0.044715F));
      x = root * Interval(mpq_class(g) + cubic * power(mpq_class(g), 3), precision);
    }
    const Interval one(mpq_class(1), precision);
    if (g > 0) {
      // product - product e / (1 + e)
      const Interval e = exp(-x);
      return round_sum(product, -(Interval(product, precision) * (e / (one + e))), -sgn(product), format);
    }
    // product e / (1 + e) with e = e^x, which may underflow: then the result is 0.
    const Interval e = exp(x);
    return round_sum(0, Interval(product, precision) * (e / (one + e)), sgn(product), format);
  });
}

double turned(double factor, double x, double y, std::int64_t position, double frequency, Format format) {
  const mpq_class angle = mpq_class(static_cast<double>(position)) * mpq_class(frequency);
  const bool finite = all_finite({x, y});
  if (finite && (angle == 0 || factor == 0 || (x == 0 && y == 0))) {
    return round_to(mpq_class(factor) * mpq_class(x), format);
  }
  if (angle == 0) return special(factor * (x + y * 0.0), 0);
  return decide([&](mpfr_prec_t precision) -> std::optional<double> {
    Real exact(200);
    mpfr_set_q(exact.get(), angle.get_mpq_t(), MPFR_RNDN);  // 55 bits
    Interval sine(precision), cosine(precision);
    mpfr_sin(sine.lo.get(), exact.get(), MPFR_RNDD);
    mpfr_sin(sine.hi.get(), exact.get(), MPFR_RNDU);
    mpfr_cos(cosine.lo.get(), exact.get(), MPFR_RNDD);
    mpfr_cos(cosine.hi.get(), exact.get(), MPFR_RNDU);
    if (!finite) return special(factor * (x * cosine.sign() + y * sine.sign()), 0);
    const Interval sum = Interval(mpq_class(x), precision) * cosine + Interval(mpq_class(y), precision) * sine;
    return round_sum(0, Interval(mpq_class(factor), precision) * sum, 0, format);
  });
}

float rotary_frequency(double theta, std::int64_t j, std::int64_t dim, double divisor, const Llama3* llama3) {
  if (j == 0 && llama3 == nullptr) return rn32(mpq_class(1) / mpq_class(divisor));
  const double rounded = decide([&](mpfr_prec_t precision) -> std::optional<double> {
    const Interval exponent(mpq_class(-2 * j, dim), precision);
    const Interval plain = exp(exponent * log(Interval(mpq_class(theta), precision)));
    if (llama3 == nullptr) return round_sum(0, plain / Interval(mpq_class(divisor), precision), 0);
    // By wavelengths, as the paper's code has it.
    Interval pi(precision);
    mpfr_const_pi(pi.lo.get(), MPFR_RNDD);
    mpfr_const_pi(pi.hi.get(), MPFR_RNDU);
    const Interval wavelength = Interval(mpq_class(2), precision) * pi / plain;
    const mpq_class context(static_cast<double>(llama3->context));
    const mpq_class low(llama3->low), high(llama3->high);
    const int longer_than_low = (wavelength - Interval(context / low, precision)).sign();
    const int longer_than_high = (wavelength - Interval(context / high, precision)).sign();
    if (longer_than_low == 0 || longer_than_high == 0) return std::nullopt;
    const Interval slow = plain / Interval(mpq_class(llama3->factor), precision);
    if (longer_than_low > 0) return round_sum(0, slow, 0);
    if (longer_than_high < 0) return j == 0 ? std::optional(1.0) : round_sum(0, plain, 0);
    const Interval smooth =
        (Interval(context, precision) / wavelength - Interval(low, precision)) / Interval(high - low, precision);
    const Interval rest = Interval(mpq_class(1), precision) - smooth;
    return round_sum(0, rest * slow + smooth * plain, 0);
  });
  return static_cast<float>(rounded);
}

namespace {

struct Term {
  mpq_class score;
  double value;
};

// Whether the output is `boundary` itself: every group of equal scores is about it.
bool is_tie(const std::vector<Term>& terms, bool has_sink, const mpq_class& boundary) {
  std::map<mpq_class, mpq_class> groups;
  for (const Term& term : terms) groups[term.score] += mpq_class(term.value) - boundary;
  for (const auto& [score, sum] : groups) {
    if (sum != 0) return false;
  }
  return !has_sink || boundary == 0;
}

}  // namespace

double attention(const AttentionProblem& problem, Format format) {
  std::vector<Term> terms;
  double unreal = 0;
  if (problem.sink && std::isnan(*problem.sink)) return nan();
  for (std::size_t j = 0; j < problem.keys.size(); ++j) {
    mpq_class score = 0;
    double special_score = 0;
    for (std::size_t d = 0; d < problem.q.size(); ++d) {
      const double product = problem.q[d] * problem.keys[j][d];
      if (std::isfinite(product)) {
        score += mpq_class(problem.q[d]) * mpq_class(problem.keys[j][d]);
      } else {
        special_score += product;
      }
    }
    score *= mpq_class(problem.scale);
    if (std::isnan(special_score)) return nan();
    if (problem.softcap != 0) {
      const mpq_class far = 1024 * mpq_class(problem.softcap);
      if (special_score != 0) score = special_score > 0 ? mpq_class(2 * far) : mpq_class(-2 * far);
      if (score > far) score = 2 * far;
      if (score < -far) score = -2 * far;
    } else if (special_score != 0) {
      if (special_score > 0) return nan();
      continue;
    }
    if (!std::isfinite(problem.values[j])) unreal += problem.values[j];
    terms.push_back({score, problem.values[j]});
  }
  const bool has_sink = problem.sink && *problem.sink > -kInfinity;
  if (unreal != 0) return std::isnan(unreal) ? nan() : unreal;
  if (terms.empty() || (has_sink && std::isinf(*problem.sink))) return 0;
  return decide([&](mpfr_prec_t precision) -> std::optional<double> {
    const auto capped = [&](const mpq_class& score) {
      if (problem.softcap == 0) return Interval(score, precision);
      const mpq_class cap(problem.softcap);
      if (abs(score) > 1024 * cap) return Interval(sgn(score) * cap, precision);
      return Interval(cap, precision) * tanh(Interval(score / cap, precision));
    };
    mpq_class greatest = terms.front().score;
    for (const Term& term : terms) greatest = std::max(greatest, term.score);
    // Distances of scores are rational and exact, where there is no softcap.
    const auto distance = [&](const mpq_class& score) {
      if (problem.softcap == 0) return Interval(score - greatest, precision);
      return capped(score) - capped(greatest);
    };
    Interval sum(precision), total(precision);
    for (const Term& term : terms) {
      const Interval weight = exp(distance(term.score));
      sum = sum + weight * Interval(mpq_class(term.value), precision);
      total = total + weight;
    }
    if (has_sink) total = total + exp(Interval(mpq_class(*problem.sink), precision) - capped(greatest));
    const Interval mean = sum / total;
    if (const auto rounded = round_sum(0, mean, 0, format)) return rounded;
    if (precision < 512) return std::nullopt;
    // A boundary between two roundings has one bit more.
    const auto boundary = round_sum(0, mean, 0, {format.precision + 1, format.min_exponent, format.max_exponent});
    if (boundary && is_tie(terms, has_sink, mpq_class(*boundary))) return round_to(mpq_class(*boundary), format);
    return std::nullopt;
  });
}

}  // namespace isologit::oracle
