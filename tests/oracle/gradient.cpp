#include "oracle/gradient.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"

// With the notation of distribution.hpp, E = Σ d e^-d and s = k + ε: ln p_v + H = E/s - d_v. So before the transforms
//   dz_v = A_v + p_v (B + c d_v - c E/s),   A_v = Σ_j a_j [v = t_j] + d/|S|,  B = b - Σ_j a_j,  p_v = e^-d_v / s:
// no logarithm at all, and m + δ with
//   d_v > 0:  m = A_v,        δ = p_v (B + c d_v - c E/s)
//   d_v = 0:  m = A_v + B/k,  δ = -(ε B / k + c E/s) / s       (as 1/s = 1/k - ε/(k s)).

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// m + delta; a sign other than 0 is that of the real delta, also where the interval reaches 0.
struct Parts {
  mpq_class m;
  Interval delta;
  int sign;
};

bool is_zero(const Interval& x) { return mpfr_zero_p(x.lo.get()) != 0 && mpfr_zero_p(x.hi.get()) != 0; }

struct RowConstants {
  mpq_class b_less_a;  // B
  mpq_class c;
};

// δ in m + δ above is exactly 0 only in cases that rational arithmetic settles; then sign and delta are 0.
Parts parts_of(const Row& row, const mpq_class& a_v, float z, const RowConstants& constants, mpfr_prec_t precision) {
  const auto& [b, c] = constants;
  if (z == -infinity) return {a_v, Interval(precision), 0};
  const mpq_class k(row.ties());
  const Gap gap = gap_between(row.top(), z);
  const Interval s = row.total(precision);
  const Interval mean_gap = row.tail(precision).moment / s;  // E/s
  if (gap == Gap{}) {
    const mpq_class m = a_v + b / k;
    if (!row.has_others() || (b == 0 && c == 0)) return {m, Interval(precision), 0};
    // Two terms of known signs, for when both underflow.
    const int sign = sgn(b) * sgn(c) >= 0 ? -(sgn(b) != 0 ? sgn(b) : sgn(c)) : 0;
    const Interval sum = row.tail(precision).mass * Interval(b / k, precision) + Interval(c, precision) * mean_gap;
    const Interval delta = -(sum / s);
    return {m, delta, sign != 0 ? sign : delta.sign()};
  }
  const mpq_class fixed = b + c * rational(gap);
  if (fixed == 0 && c == 0) return {a_v, Interval(precision), 0};
  const Interval bracket = Interval(fixed, precision) - Interval(c, precision) * mean_gap;
  const int sign = fixed == 0 ? -sgn(c) : bracket.sign();
  return {a_v, exp_minus(gap, precision) / s * bracket, sign};
}

// RN32 of (m + δ) times the transforms' factors: rational ones, and σ = 1 - tanh²(x/c) of a softcap, x being what the
// logit z0 has become before it.
class Factors {
 public:
  Factors(const Transforms& transforms, float t) : transforms_(transforms) {
    rational_ = 1 / mpq_class(t);
    if (transforms.scale_kind == ScaleKind::multiply) rational_ *= mpq_class(transforms.scale);
    if (transforms.scale_kind == ScaleKind::divide) rational_ /= mpq_class(transforms.scale);
  }

  std::optional<float> apply(const Parts& parts, float z0) const {
    const mpfr_prec_t precision = parts.delta.precision();
    const mpq_class m = rational_ * parts.m;
    const Interval delta = Interval(rational_, precision) * parts.delta;
    const int sign = parts.sign * sgn(rational_);
    if (!transforms_.has_softcap) return narrow(m, delta, sign);
    const float capped = before_softcap(z0, transforms_);
    if (capped == 0) return narrow(m, delta, sign);
    if (std::isinf(capped) || (parts.m == 0 && is_zero(parts.delta))) return 0.0F;
    const mpq_class x = abs(mpq_class(capped)) / mpq_class(transforms_.softcap);
    const Interval whole = Interval(m, precision) + delta;
    if (x < mpq_class(1, 2)) {
      // σ = 1 - τ: with τ kept apart, (m + δ) σ = m + (δ - τ (m + δ)).
      const Interval th = tanh(Interval(x, precision));
      const Interval apart = delta - th * th * whole;
      return narrow(m, apart, m == 0 ? sign : apart.sign());
    }
    // σ = (2 e^-x / (1 + e^-2x))², relatively accurate and never overflowing.
    const Interval e = exp(-Interval(x, precision));
    const Interval sech = (e + e) / (Interval(1, precision) + e * e);
    return narrow(0, whole * sech * sech, m == 0 ? sign : whole.sign());
  }

 private:
  static std::optional<float> narrow(const mpq_class& m, const Interval& delta, int sign) {
    if (is_zero(delta)) return rn32(m);
    const auto rounded = round_sum(m, delta, sign);
    if (!rounded) return std::nullopt;
    return static_cast<float>(*rounded);
  }

  mpq_class rational_;
  Transforms transforms_;
};

Buffer zeros(const Buffer& buffer, std::size_t count) {
  return buffer.values.empty() ? Buffer{std::vector<double>(count, 0.0), DType::f32} : buffer;
}

}  // namespace

bool RowUpstream::all_zero() const {
  return b == 0 && c == 0 && d == 0 && std::all_of(a.begin(), a.end(), [](float x) { return x == 0; });
}

std::vector<float> dz_of_row(std::span<const float> z0, std::span<const std::uint8_t> mask, const RowUpstream& upstream,
                             const Transforms& transforms, float t) {
  std::vector<float> dz(z0.size(), 0.0F);
  if (upstream.all_zero()) return dz;
  std::vector<float> z;
  for (float logit : z0) z.push_back(transform(logit, transforms, t));
  const Row row(z, mask);
  RowConstants constants{mpq_class(upstream.b), mpq_class(upstream.c)};
  std::vector<mpq_class> a(z0.size());
  if (upstream.d != 0 && row.support_size() > 0) {
    for (mpq_class& own : a) own = mpq_class(upstream.d) / mpq_class(row.support_size());
  }
  for (std::size_t j = 0; j < upstream.ids.size(); ++j) {
    a[static_cast<std::size_t>(upstream.ids[j])] += mpq_class(upstream.a[j]);
    constants.b_less_a -= mpq_class(upstream.a[j]);
  }
  const Factors factors(transforms, t);
  for (std::size_t v = 0; v < z.size(); ++v) {
    if (!row.in_support(static_cast<std::int64_t>(v))) continue;
    if (row.kind() != RowKind::ordinary) {
      dz[v] = quiet_nan();
      continue;
    }
    dz[v] = decide(
        [&](mpfr_prec_t precision) { return factors.apply(parts_of(row, a[v], z[v], constants, precision), z0[v]); });
  }
  return dz;
}

std::vector<float> dz_of_logits(std::span<const float> z0, std::span<const float> g, const Transforms& transforms,
                                float t) {
  std::vector<float> dz(z0.size(), 0.0F);
  if (std::all_of(g.begin(), g.end(), [](float x) { return x == 0; })) return dz;
  const Factors factors(transforms, t);
  const bool has_nan = std::any_of(z0.begin(), z0.end(), [](float z) { return std::isnan(z); });
  for (std::size_t v = 0; v < z0.size(); ++v) {
    dz[v] = has_nan ? quiet_nan() : decide([&](mpfr_prec_t precision) {
      return factors.apply({mpq_class(g[v]), Interval(precision), 0}, z0[v]);
    });
  }
  return dz;
}

std::vector<float> dhidden(const GradientSums& sums, std::span<const double> weight, std::size_t cols,
                           const Buffer& buffer) {
  const Buffer start = zeros(buffer, sums.rows * cols);
  std::vector<float> result(sums.rows * cols);
  const std::vector<double> dz(sums.dz.begin(), sums.dz.end());
  for (std::size_t n = 0; n < sums.rows; ++n) {
    const std::size_t count = !sums.skipped.empty() && sums.skipped[n] != 0 ? 0 : sums.vocab;
    for (std::size_t k = 0; k < cols; ++k) {
      const Terms terms{&dz[n * sums.vocab], &weight[k], count, 1, cols};
      result[n * cols + k] = dot(terms, start.values[n * cols + k], start.dtype);
    }
  }
  return result;
}

std::vector<float> dhidden(const GradientSums& sums, const std::vector<Number>& weight, std::size_t cols,
                           const Buffer& buffer) {
  const Buffer start = zeros(buffer, sums.rows * cols);
  std::vector<float> result(sums.rows * cols);
  for (std::size_t n = 0; n < sums.rows; ++n) {
    const std::size_t count = !sums.skipped.empty() && sums.skipped[n] != 0 ? 0 : sums.vocab;
    const std::vector<double> dz(sums.dz.begin() + static_cast<std::ptrdiff_t>(n * sums.vocab),
                                 sums.dz.begin() + static_cast<std::ptrdiff_t>(n * sums.vocab + count));
    for (std::size_t k = 0; k < cols; ++k) {
      std::vector<Number> column;
      for (std::size_t v = 0; v < count; ++v) column.push_back(weight[v * cols + k]);
      result[n * cols + k] = rounded(sum_of(dz, column, start.values[n * cols + k]), start.dtype);
    }
  }
  return result;
}

LowRankGradients low_rank_gradients(const GradientSums& sums, const LowRankOperands& operands, const Buffer& dhidden,
                                    const Buffer& da, const Buffer& db) {
  const auto [hidden, weight, a, b, rank, cols, scale] = operands;
  const auto sum_over = [](std::size_t count, double start, const auto& term) {
    Extended sum(start);
    for (std::size_t i = 0; i < count; ++i) sum += term(i);
    return sum;
  };
  std::vector<std::size_t> rows;
  for (std::size_t n = 0; n < sums.rows; ++n) {
    if (sums.skipped.empty() || sums.skipped[n] == 0) rows.push_back(n);
  }
  const auto dz = [&](std::size_t i, std::size_t v) {
    return Extended(static_cast<double>(sums.dz[rows[i] * sums.vocab + v]));
  };
  std::vector<Extended> u, g;  // [row that counts][rank]
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rank; ++j) {
      u.push_back(Extended(scale) * sum_over(cols, 0, [&](std::size_t k) {
                    return Extended(a[j * cols + k]) * Extended(hidden[rows[i] * cols + k]);
                  }));
      g.push_back(Extended(scale) *
                  sum_over(sums.vocab, 0, [&](std::size_t v) { return dz(i, v) * Extended(b[v * rank + j]); }));
    }
  }
  const Buffer of_hidden = zeros(dhidden, sums.rows * cols);
  const Buffer of_a = zeros(da, rank * cols);
  const Buffer of_b = zeros(db, sums.vocab * rank);
  LowRankGradients result;
  for (const double x : of_hidden.values) result.dhidden.push_back(static_cast<float>(x));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t k = 0; k < cols; ++k) {
      const std::size_t at = rows[i] * cols + k;
      Extended sum = sum_over(sums.vocab, of_hidden.values[at],
                              [&](std::size_t v) { return dz(i, v) * Extended(weight[v * cols + k]); });
      sum += sum_over(rank, 0, [&](std::size_t j) { return g[i * rank + j] * Extended(a[j * cols + k]); });
      result.dhidden[at] = sum.round(of_hidden.dtype);
    }
  }
  for (std::size_t j = 0; j < rank; ++j) {
    for (std::size_t k = 0; k < cols; ++k) {
      result.da.push_back(sum_over(rows.size(), of_a.values[j * cols + k], [&](std::size_t i) {
                            return g[i * rank + j] * Extended(hidden[rows[i] * cols + k]);
                          }).round(of_a.dtype));
    }
  }
  for (std::size_t v = 0; v < sums.vocab; ++v) {
    for (std::size_t j = 0; j < rank; ++j) {
      result.db.push_back(sum_over(rows.size(), of_b.values[v * rank + j], [&](std::size_t i) {
                            return dz(i, v) * u[i * rank + j];
                          }).round(of_b.dtype));
    }
  }
  return result;
}

std::vector<float> dweight(const GradientSums& sums, std::span<const double> hidden, std::size_t cols,
                           const Buffer& buffer) {
  const Buffer start = zeros(buffer, sums.vocab * cols);
  std::vector<float> result(sums.vocab * cols);
  // The rows that count, gathered: a skipped row's hidden state may be anything, inf or NaN too.
  std::vector<double> dz, h;
  for (std::size_t n = 0; n < sums.rows; ++n) {
    if (!sums.skipped.empty() && sums.skipped[n] != 0) continue;
    for (std::size_t v = 0; v < sums.vocab; ++v) dz.push_back(static_cast<double>(sums.dz[n * sums.vocab + v]));
    for (std::size_t k = 0; k < cols; ++k) h.push_back(hidden[n * cols + k]);
  }
  const std::size_t count = dz.size() / sums.vocab;
  for (std::size_t v = 0; v < sums.vocab; ++v) {
    for (std::size_t k = 0; k < cols; ++k) {
      const Terms terms{count == 0 ? nullptr : &dz[v], count == 0 ? nullptr : &h[k], count, sums.vocab, cols};
      result[v * cols + k] = dot(terms, start.values[v * cols + k], start.dtype);
    }
  }
  return result;
}

std::vector<float> dbias(const GradientSums& sums, const Buffer& buffer) {
  const std::vector<double> ones(sums.rows, 1.0);
  return dweight(sums, ones, 1, buffer);
}

float mean_loss(std::span<const float> logprobs) {
  const std::vector<double> values(logprobs.begin(), logprobs.end());
  if (values.empty()) return quiet_nan();
  mpq_class sum = 0;
  for (float x : logprobs) {
    if (!std::isfinite(x)) {
      const std::vector<double> minus_ones(values.size(), -1.0);
      return logit(values.data(), minus_ones.data(), values.size());  // -Σ by the rules for NaN and inf of section 1
    }
    sum += mpq_class(x);
  }
  return rn32(-sum / mpq_class(static_cast<unsigned long>(values.size())));
}

float mean_loss_upstream(float g, std::int64_t n) { return rn32(-mpq_class(g) / mpq_class(n)); }

}  // namespace isologit::oracle
