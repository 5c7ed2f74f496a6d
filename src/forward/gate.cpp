// Gates. Those with an exponential are product / (1 + e^-x) with product = (u + shift) g and x a polynomial of g; what
// f64 leaves open is settled in balls, which always end: for g other than 0, x is an algebraic number other than 0, or
// one times sqrt(2/pi) (transcendental, and no logarithm of a rational number is known of that form), so e^-x is no
// rational number. relu_squared is a product of three numbers.
#include "forward/gate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/text.hpp"
#include "exact/constants.hpp"
#include "exact/elementary.hpp"
#include "exact/encode.hpp"
#include "exact/root.hpp"
#include "forward/validate.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using exact::Ball;
using exact::BigFloat;
using isologit::forward::GateKind;
using isologit::forward::GateRequest;

constexpr std::int64_t kRowsAPiece = 8;

BigFloat big(double x) { return BigFloat::from_double(x); }

struct Gate {
  GateKind kind;
  double alpha;
  bool has_up;
  DType dtype;

  double shift() const { return kind == GateKind::clamped_swish && has_up ? 1 : 0; }

  // x of e^-x.
  Ball exponent(double g, std::size_t limbs) const {
    if (kind != GateKind::gelu_tanh) return Ball{multiply(big(kind == GateKind::silu ? 1 : alpha), big(g)), {}};
    const Ball factor = exact::sqrt(divide(Ball::exact(8), exact::pi(limbs), limbs), limbs);
    const BigFloat cube = multiply(multiply(big(g), big(g)), big(g));
    return multiply(factor, Ball{add(big(g), multiply(big(kCubic), cube)), {}}, limbs);
  }

  // By the definition; g and u after clamping.
  float result(double g, double u) const {
    const auto& format = exact::format_of(dtype);
    if (!std::isfinite(g) || !std::isfinite(u) || g == 0) return special(g, u);
    const BigFloat product = multiply(add(big(u), big(shift())), big(g));
    if (kind == GateKind::relu_squared) {
      return g < 0 ? 0.0F : static_cast<float>(exact::round(multiply(product, big(g)), format));
    }
    if (product.is_zero()) return 0.0F;
    const exact::Approximation x = approximate(exponent(g, 3).middle);
    // Below 2^260 e^-1000, which is 0 in every type.
    if (g < 0 && (x.exponent > 20 || std::ldexp(x.mantissa, static_cast<int>(x.exponent)) < -1000)) return 0.0F;
    for (std::size_t limbs = 3;; limbs *= 2) {
      const Ball e = exact::exp_or_tiny(negate(exponent(g, limbs)), limbs);
      const Ball one_and = add(Ball::exact(1), e, limbs);
      if (g < 0) {
        if (const auto rounded = try_round(divide(Ball{product, {}}, one_and, limbs), format)) {
          return static_cast<float>(*rounded);
        }
        continue;
      }
      // product - product e / (1 + e): the sign of what is taken away is known, however small it is.
      const Ball less = negate(divide(multiply(Ball{product, {}}, e, limbs), one_and, limbs));
      if (const auto rounded = try_round_sum(product, less, product.negative ? 1 : -1, format)) {
        return static_cast<float>(*rounded);
      }
    }
  }

 private:
  // Limits at the infinities; at g = 0 the gate is 0.
  float special(double g, double u) const {
    const double open = kind == GateKind::relu_squared && g > 0 ? g * g : g;
    const bool closed = g < 0 && (std::isinf(g) || kind == GateKind::relu_squared);
    return static_cast<float>(exact::narrow((closed ? 0.0 : open) * (u + shift()), dtype));
  }
};

class Rows {
 public:
  Rows(const GateRequest& request, const kernels::ForwardLoops* loops)
      : request_(request),
        gate_{request.kind, static_cast<double>(request.alpha), request.up.data != nullptr, request.gate.dtype},
        loops_(loops),
        g_(padded()),
        u_(padded(), 1.0F),
        open_g_(padded()),
        open_u_(padded()),
        open_(request.gate.dim),
        row_(request.gate.dim) {}

  std::int64_t run(std::int64_t token, std::int64_t head) {
    const std::int64_t dim = request_.gate.dim;
    load_row(request_.gate, token, head, g_.data());
    if (gate_.has_up) load_row(request_.up, token, head, u_.data());
    if (request_.kind == GateKind::clamped_swish) clamp();
    void* to = row_of(request_.y, gate_.dtype, token, head);
    const auto settle = [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      return gate_.result(static_cast<double>(g_[at]), static_cast<double>(u_[at]));
    };
    if (loops_ != nullptr && gate_.kind == GateKind::silu && gate_.dtype == DType::bf16) {
      const float* up = gate_.has_up ? u_.data() : nullptr;
      const std::int64_t opened = loops_->silu_bf16(g_.data(), up, dim, to, open_.list());
      if (opened == 0) return 0;
      open_.gather(g_.data(), opened, open_g_.data());
      open_.gather(u_.data(), opened, open_u_.data());
      compute(open_g_, open_u_, opened);
      return row_.finish_open(loops_, open_, opened, to, settle);
    }
    if (loops_ != nullptr) compute(g_, u_, dim);
    return row_.finish(loops_, dim, gate_.dtype, to, settle);
  }

 private:
  std::size_t padded() const { return static_cast<std::size_t>(kernels::padded(request_.gate.dim)); }

  // NaN stays.
  void clamp() {
    const float limit = request_.limit;
    for (float& g : g_) g = g > limit ? limit : g;
    if (!gate_.has_up) return;
    for (float& u : u_) u = u > limit ? limit : u < -limit ? -limit : u;
  }

  // Values of `count` elements g and u, and their errors.
  void compute(const std::vector<float>& g, const std::vector<float>& u, std::int64_t count) {
    using kernels::GateFunction;
    const float* up = gate_.has_up ? u.data() : nullptr;
    switch (request_.kind) {
      case GateKind::silu:
        return loops_->gate(GateFunction::silu, 1, 0, g.data(), up, 0, count, row_.values(), row_.errors());
      case GateKind::clamped_swish:
        return loops_->gate(GateFunction::silu, gate_.alpha, 0, g.data(), up, gate_.shift(), count, row_.values(),
                            row_.errors());
      case GateKind::gelu_tanh:
        return loops_->gate(GateFunction::gelu_tanh, kTwoRootTwoOverPi, kCubic, g.data(), up, 0, count, row_.values(),
                            row_.errors());
      case GateKind::relu_squared: break;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double open = g[at] < 0 ? 0.0 : static_cast<double>(g[at]);
      row_.values()[i] = open * open * static_cast<double>(u[at]);
      row_.errors()[i] = std::fabs(row_.values()[i]) * 0x1p-53;
    }
  }

  const GateRequest& request_;
  const Gate gate_;
  const kernels::ForwardLoops* loops_;
  std::vector<float> g_, u_, open_g_, open_u_;
  OpenElements open_;
  Row row_;
};

}  // namespace

Result<void> validate_gate(const GateRequest& request) {
  if (auto checked = validate_tensor("gate", request.gate); !checked) return checked;
  if (request.up.data != nullptr) {
    if (auto checked = validate_like("up", request.up, "gate", request.gate); !checked) return checked;
  }
  if (request.kind == GateKind::clamped_swish) {
    if (!(request.alpha > 0) || std::isinf(request.alpha)) {
      return tiles::invalid(base::concat("alpha: ", request.alpha, "; expected a finite number above 0"));
    }
    if (!(request.limit > 0))
      return tiles::invalid(base::concat("limit: ", request.limit, "; expected a number above 0"));
  }
  return {};
}

}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> gate(const GateRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate_gate(request); !checked) return tl::unexpected(checked.error());
    if (auto checked = validate_output(request.y, request.gate, {&request.gate, &request.up}, {}); !checked) {
      return tl::unexpected(checked.error());
    }
    const auto setting = setting_of(own);
    if (!setting) return tl::unexpected(setting.error());
    const TensorView& x = request.gate;
    return run(*setting, x.tokens * x.heads, kRowsAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Rows rows(request, setting->loops);
      std::int64_t settled = 0;
      for (std::int64_t row = begin; row < end; ++row) settled += rows.run(row / x.heads, row % x.heads);
      return settled;
    });
  };
  return detail::tiles::call(options, "computing gate; nothing useful is in the output", work);
}

}  // namespace isologit::forward
