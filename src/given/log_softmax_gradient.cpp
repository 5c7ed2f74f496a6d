#include "given/log_softmax_gradient.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <vector>

#include "backward/first_pass.hpp"
#include "base/thread_pool.hpp"
#include "exact/elementary.hpp"
#include "exact/superaccumulator.hpp"
#include "exact/two_sum.hpp"
#include "fold/distribution.hpp"
#include "fold/pair_sums.hpp"
#include "given/row.hpp"

namespace isologit::detail::given {
namespace {

using exact::Ball;
using exact::BigFloat;

// The sum of a row's upstream in f64.
struct UpstreamSum {
  double sum = 0;    // not finite where an upstream is not
  double error = 0;  // a bound
  bool zero = true;  // all are 0
};

// Two-sums in chains side by side. What they drop is at most n 2^-53 of the sum of magnitudes and added up with n
// roundings: n^2 2^-106; the last addition rounds by 2^-53.
UpstreamSum sum_of(const float* g, std::int64_t count) {
  constexpr std::int64_t kChains = 8;
  double high[kChains] = {};
  double low[kChains] = {};
  double size[kChains] = {};
  const auto add = [&](std::int64_t chain, double x) {
    const exact::TwoSum next = exact::two_sum(high[chain], x);
    high[chain] = next.high;
    low[chain] += next.low;
    size[chain] += std::fabs(x);
  };
  const std::int64_t whole = count / kChains * kChains;
  for (std::int64_t i = 0; i < whole; i += kChains) {
    for (std::int64_t chain = 0; chain < kChains; ++chain) add(chain, static_cast<double>(g[i + chain]));
  }
  for (std::int64_t i = whole; i < count; ++i) add(0, static_cast<double>(g[i]));
  for (std::int64_t chain = 1; chain < kChains; ++chain) {
    add(0, high[chain]);
    low[0] += low[chain];
    size[0] += size[chain];
  }
  const auto n = static_cast<double>(count + 2 * kChains);
  UpstreamSum result;
  result.sum = high[0] + low[0];
  result.error = std::fabs(result.sum) * 0x1p-52 + 2 * size[0] * n * n * 0x1p-106;
  result.zero = size[0] == 0;
  return result;
}

// The same exactly.
BigFloat exact_sum_of(const float* g, std::int64_t count) {
  exact::Superaccumulator sum;
  for (std::int64_t i = 0; i < count; ++i) sum.add(static_cast<double>(g[i]));
  BigFloat result;
  while (!sum.is_zero()) {
    const double leading = sum.round(exact::kF64);
    result = exact::add(result, BigFloat::from_double(leading));
    sum.add(-leading);
  }
  return result;
}

class GradientRow {
 public:
  GradientRow(const GivenLogitsBackwardRequest& request, const GivenTarget& target, std::int64_t row)
      : logits_(request.logits),
        target_(target),
        index_(row),
        row_(request.logits, request.temperatures, row),
        g_(static_cast<const float*>(exact::row_data(request.d_log_softmax, row))),
        to_(request.dlogits + row * request.dlogits_row_stride) {}

  // Whether the row contributes.
  bool run() {
    const std::int64_t vocab = logits_.cols;
    const UpstreamSum upstream = sum_of(g_, vocab);
    if (upstream.zero) {
      std::fill_n(to_, vocab, 0.0F);
      return false;
    }
    fold::Distribution state;
    state.mass_alone = true;
    alignas(64) float tile[kTile];  // absorb writes to it
    row_.for_each_tile(0, row_.tiles(), [&](const float* z, std::int64_t count, std::int64_t first) {
      std::copy_n(z, kTile, tile);
      state.absorb(target_.fold_loops(), tile, count, first);
    });
    if (!state.ordinary() || !std::isfinite(upstream.sum)) {
      std::fill_n(to_, vocab, exact::quiet_nan());
      return true;
    }
    estimate(state, upstream);
    if (!open_.empty()) settle(state);
    return true;
  }

  std::int64_t fallbacks() const { return fallbacks_; }

 private:
  // Writes what f64 proves; the other ids go to open_.
  void estimate(const fold::Distribution& state, const UpstreamSum& upstream) {
    fold::RelativeSums sums;
    if (!relative_sums(state, sums)) {
      for (std::int64_t id = 0; id < logits_.cols; ++id) open_.push_back(id);
      return;
    }
    if (state.ties == 1) sums_ = {kLimbs, 1, state.above_minus_inf > 1, sums.rest, {}, {}};
    const kernels::SoftmaxGradient row = softmax(state, sums, upstream);
    row_.for_each_tile(0, row_.tiles(), [&](const float* z, std::int64_t count, std::int64_t first) {
      alignas(64) float g[kTile] = {};
      alignas(64) float dz[kTile];
      std::int32_t unproven[kTile];
      std::copy_n(g_ + first, count, g);
      const std::int64_t left = target_.fold_loops().softmax_gradient(row, z, g, kTile, dz, unproven);
      for (std::int64_t i = 0; i < left && unproven[i] < count; ++i) open_.push_back(first + unproven[i]);
      std::copy_n(dz, count, to_ + first);
    });
  }

  kernels::SoftmaxGradient softmax(const fold::Distribution& state, const fold::RelativeSums& sums,
                                   const UpstreamSum& upstream) const {
    // In units of 2^scale, e^top times 1 / (1 + rest) e^-top.
    const Ball total = exact::add(Ball::exact(1), sums.rest, kLimbs);
    const Ball inverse_top = exact::exp(Ball::exact(-static_cast<double>(state.top)), kLimbs);
    const Ball unit = exact::scale_by_power_of_two(exact::divide(inverse_top, total, kLimbs), state.scale);
    const double middle = exact::round(unit.middle, exact::kF64);
    const double radius = exact::round(exact::to_bigfloat(unit.radius), exact::kF64);
    return {state.scale,   middle,         radius / middle + 0x1p-52,
            -upstream.sum, upstream.error, 1 / static_cast<double>(row_.temperature())};
  }

  // By the definition, at doubling precision.
  void settle(const fold::Distribution& state) {
    fallbacks_ = static_cast<std::int64_t>(open_.size());
    const BigFloat b = exact::negate(exact_sum_of(g_, logits_.cols));
    const backward::Factors factors{{}, row_.temperature()};
    for (std::size_t limbs = fold::kPairLimbs; !open_.empty(); limbs *= 2) {
      if (sums_.limbs != 0) {
        std::erase_if(open_, [&](std::int64_t id) {
          const float z = row_.logit(id);
          const backward::Upstream of_id{BigFloat::from_double(static_cast<double>(g_[id])), b, 0};
          const auto dz = exact_dz(sums_, state.top, {z, z}, of_id, factors, sums_.limbs + 1);
          if (dz) to_[id] = *dz;
          return dz.has_value();
        });
      }
      if (!open_.empty()) widen(state, limbs);
    }
  }

  // The row's sums anew, as backward makes them.
  void widen(const fold::Distribution& state, std::size_t limbs) {
    const float any = 1;
    const float temperature = row_.temperature();
    MatrixView one_row = logits_;
    one_row.data = exact::row_data(logits_, index_);
    one_row.rows = 1;
    BackwardRequest request{.hidden = one_row, .token_ids = {}, .temperatures = {&temperature, 1}, .support = {}};
    request.d_lse = &any;
    const Head head = head_of(one_row);
    const backward::ActiveRows rows(request, logits_.cols);
    const base::Parties alone(std::nullopt, logits_.cols);
    const backward::FirstPass first_pass(head, request, rows, target_, true, 1, alone);
    std::vector<backward::NormalizedRow> states(1);
    states[0].top = state.top;
    states[0].ordinary = true;
    const std::size_t which[] = {0};
    first_pass.widen(which, limbs, states);
    sums_ = states[0].sums;
  }

  static constexpr std::size_t kLimbs = 3;

  const MatrixView& logits_;
  const GivenTarget& target_;
  std::int64_t index_;
  GivenRow row_;
  const float* g_;
  float* to_;
  fold::RowSums sums_;  // without limbs: none yet
  std::vector<std::int64_t> open_;
  std::int64_t fallbacks_ = 0;
};

}  // namespace

LogSoftmaxGradientDone log_softmax_gradient(const GivenLogitsBackwardRequest& request, const GivenTarget& target,
                                            int threads, const std::function<bool(double)>& progress) {
  std::atomic<std::int64_t> rows = 0;
  std::atomic<std::int64_t> fallbacks = 0;
  const bool finished = base::parallel_for(
      threads, request.logits.rows,
      [&](int, std::int64_t i) {
        GradientRow row(request, target, i);
        rows += row.run() ? 1 : 0;
        fallbacks += row.fallbacks();
      },
      progress);
  return {!finished, rows, fallbacks};
}

}  // namespace isologit::detail::given
