// The output is the weighted mean of values. In balls it always ends but where it is a boundary b between two roundings
// itself, and that is decided over the rationals: sum of e^s_j (v_j - b) - e^sink b = 0 for distinct algebraic
// exponents only if the coefficient of each is 0 (Lindemann and Weierstrass 1885). So keys of equal scores are grouped;
// all coefficients 0 is a tie, and otherwise the sign of the sum tells the side of b. (With a softcap the exponents are
// not algebraic; equal scores still fall together, and no other tie is known to be possible.)
#include "forward/attention_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/asking.hpp"
#include "exact/elementary.hpp"
#include "exact/encode.hpp"
#include "exact/row.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::forward {
namespace {

using exact::Ball;
using exact::BigFloat;

constexpr double kFarthest = 1024;  // softcaps: tanh is 1 beyond

BigFloat big(double x) { return BigFloat::from_double(x); }

}  // namespace

AttentionRow::AttentionRow(const AttentionRequest& request, std::int64_t sequence, std::int64_t token,
                           std::int64_t head)
    : request_(request), keys_(request.kv, sequence), sequence_(sequence), token_(token) {
  kv_head_ = head / (request.q.heads / request.kv.keys.heads);
  if (!request.sinks.empty()) {
    sink_ = static_cast<double>(request.sinks[static_cast<std::size_t>(head)]);
    nan_ = std::isnan(sink_);
    has_sink_ = sink_ > -std::numeric_limits<double>::infinity();
  }
  std::vector<float> q(static_cast<std::size_t>(kernels::padded(request.q.dim)));
  load_row(request.q, token, head, q.data());
  read_scores(q.data());
  if (!nan_) group_keys();
}

void AttentionRow::read_scores(const float* q) {
  const std::int64_t dim = request_.q.dim;
  std::vector<float> k(static_cast<std::size_t>(dim));
  const Seen seen = seen_by(request_, sequence_, token_);
  for (std::int64_t j = seen.begin; j < seen.end; ++j) {
    base::go_on_or_throw();
    exact::widen_row(keys_.key(j, kv_head_), request_.kv.keys.dtype, dim, k.data());
    BigFloat score;
    double unreal = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      const double product = static_cast<double>(q[d]) * static_cast<double>(k[static_cast<std::size_t>(d)]);
      if (std::isfinite(product)) {
        score = add(score, big(product));
      } else {
        unreal += product;
      }
    }
    if (std::isnan(unreal)) nan_ = true;
    if (unreal == 0) score = multiply(score, big(static_cast<double>(request_.scale)));
    if (request_.softcap != 0) {
      // Far scores, infinite ones too, are one score: ±softcap (CONTRACT.md 10).
      const BigFloat far = big(kFarthest * static_cast<double>(request_.softcap));
      if (unreal != 0 || compare_magnitude(score, far) > 0) {
        const bool negative = unreal == 0 ? score.negative : unreal < 0;
        score = scale_by_power_of_two(far, 1);
        score.negative = negative;
      }
    } else if (unreal != 0) {
      nan_ = nan_ || unreal > 0;
      continue;  // -inf weighs nothing
    }
    seen_.push_back({j, std::move(score), 0});
  }
}

void AttentionRow::group_keys() {
  std::stable_sort(seen_.begin(), seen_.end(),
                   [](const Key& a, const Key& b) { return sign_of(subtract(a.score, b.score)) > 0; });
  for (Key& key : seen_) {
    if (groups_.empty() || sign_of(subtract(groups_.back(), key.score)) != 0) groups_.push_back(key.score);
    key.group = static_cast<int>(groups_.size()) - 1;
  }
}

Ball AttentionRow::score_of(const BigFloat& score, std::size_t limbs) const {
  if (request_.softcap == 0 || score.is_zero()) return {score, {}};
  const Ball cap = Ball::exact(static_cast<double>(request_.softcap));
  const BigFloat size = score.negative ? negate(score) : score;
  if (compare_magnitude(size, big(kFarthest * static_cast<double>(request_.softcap))) > 0) {
    return score.negative ? negate(cap) : cap;
  }
  const Ball capped = multiply(cap, exact::tanh(divide(Ball{size, {}}, cap, limbs), limbs), limbs);
  return score.negative ? negate(capped) : capped;
}

std::vector<Ball> AttentionRow::weights_from(int origin, std::size_t first, std::size_t limbs, Ball& sink) const {
  const Ball from = origin < 0 ? Ball::exact(sink_) : score_of(groups_[static_cast<std::size_t>(origin)], limbs);
  std::vector<Ball> weights(groups_.size());
  for (std::size_t g = first; g < groups_.size(); ++g) {
    base::go_on_or_throw();
    // Scores may be large numbers that are near to each other: without a softcap their difference is exact.
    weights[g] = static_cast<int>(g) == origin ? Ball::exact(1)
                 : request_.softcap == 0 && origin >= 0
                     ? exact::exp_or_tiny({subtract(groups_[g], groups_[static_cast<std::size_t>(origin)]), {}}, limbs)
                     : exact::exp_or_tiny(subtract(score_of(groups_[g], limbs), from, limbs), limbs);
  }
  sink = origin < 0  ? Ball::exact(1)
         : has_sink_ ? exact::exp_or_tiny(subtract(Ball::exact(sink_), from, limbs), limbs)
                     : Ball{};
  return weights;
}

int AttentionRow::origin_of(std::size_t first) const {
  if (!has_sink_) return static_cast<int>(first);
  const bool greater = sign(subtract(Ball::exact(sink_), score_of(groups_[first], 3), 3)) > 0;
  return greater ? -1 : static_cast<int>(first);
}

void AttentionRow::widen(std::size_t limbs) {
  if (limbs_ == limbs) return;
  limbs_ = limbs;
  weights_ = weights_from(origin_of(0), 0, limbs, total_);
  for (const Key& key : seen_) total_ = add(total_, weights_[static_cast<std::size_t>(key.group)], limbs);
}

double AttentionRow::value_of(const Key& key, std::int64_t d) const {
  const auto size = static_cast<std::int64_t>(dtype_size(request_.kv.values.dtype));
  float value = 0;
  exact::widen_row(static_cast<const char*>(keys_.value(key.index, kv_head_)) + d * size, request_.kv.values.dtype, 1,
                   &value);
  return static_cast<double>(value);
}

float AttentionRow::result(std::int64_t d) {
  if (nan_) return exact::quiet_nan();
  double unreal = 0;
  for (const Key& key : seen_) {
    const double value = value_of(key, d);
    if (!std::isfinite(value)) unreal += value;
  }
  const auto& format = exact::format_of(request_.q.dtype);
  if (unreal != 0) return static_cast<float>(exact::narrow(unreal, request_.q.dtype));
  if (seen_.empty() || (std::isinf(sink_) && sink_ > 0)) return 0.0F;
  for (std::size_t limbs = 3;; limbs *= 2) {
    widen(limbs);
    Ball sum;
    for (const Key& key : seen_) {
      const Ball term = multiply(weights_[static_cast<std::size_t>(key.group)], Ball::exact(value_of(key, d)), limbs);
      sum = add(sum, term, limbs);
    }
    const Ball mean = divide(sum, total_, limbs);
    if (const auto rounded = try_round(mean, format)) return static_cast<float>(*rounded);
    const auto boundary = try_round(mean, boundaries_of(format));
    if (!boundary || *boundary == 0 || std::isinf(*boundary)) continue;
    return static_cast<float>(round_beside(big(*boundary), side_of(*boundary, d), format));
  }
}

// The sign of mean - boundary.
int AttentionRow::side_of(double boundary, std::int64_t d) const {
  std::vector<BigFloat> coefficients(groups_.size());
  for (const Key& key : seen_) {
    BigFloat& coefficient = coefficients[static_cast<std::size_t>(key.group)];
    coefficient = add(coefficient, subtract(big(value_of(key, d)), big(boundary)));
  }
  const auto first = std::find_if(coefficients.begin(), coefficients.end(), [](const auto& c) { return !c.is_zero(); });
  if (first == coefficients.end() && !has_sink_) return 0;
  if (first == coefficients.end()) return boundary > 0 ? -1 : 1;
  const auto greatest = static_cast<std::size_t>(first - coefficients.begin());
  for (std::size_t limbs = 3;; limbs *= 2) {
    Ball sink;
    const std::vector<Ball> weights = weights_from(origin_of(greatest), greatest, limbs, sink);
    Ball sum = multiply(sink, Ball::exact(-boundary), limbs);
    for (std::size_t g = greatest; g < groups_.size(); ++g) {
      if (coefficients[g].is_zero()) continue;
      sum = add(sum, multiply(weights[g], Ball{coefficients[g], {}}, limbs), limbs);
    }
    if (const int side = sign(sum); side != 0) return side;
  }
}

}  // namespace isologit::detail::forward
