// Gradients of gates. Those with an exponential are (u + shift) g s(x) with s = 1 / (1 + e^-x), so
//   dg = dy (u + shift) (s + g x' s (1 - s)) and du = dy g s,
// where g s is the gate's own value in f64 (kernels/forward_loops.hpp), s its quotient by g, and 1/2 at 0. s is within
// 2^-48 of itself where |x| is small, and 1 exactly where e^-x is below half an ulp of 1, so 1 - s, whose error is that
// of s, adds to dg no more than |x x' / x| 2^-48 of s.
#include <algorithm>
#include <cmath>
#include <vector>

#include "forward/gate.hpp"
#include "forward/validate.hpp"
#include "isologit/forward_backward.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::GateBackwardRequest;
using isologit::forward::GateKind;
using isologit::forward::GateRequest;

constexpr std::int64_t kRowsAPiece = 8;

class Rows {
 public:
  Rows(const GateBackwardRequest& request, const kernels::ForwardLoops& loops)
      : request_(request),
        loops_(loops),
        has_up_(request.up.data != nullptr),
        g_(static_cast<std::size_t>(kernels::padded(request.gate.dim))),
        u_(g_.size(), 1.0F),
        dy_(g_.size()),
        clamped_(g_.size()),
        opened_(g_.size()),
        errors_(g_.size()),
        dgate_(request.gate.dim),
        dup_(request.gate.dim) {}

  void run(std::int64_t token, std::int64_t head) {
    const std::int64_t dim = request_.gate.dim;
    load_row(request_.gate, token, head, g_.data());
    if (has_up_) load_row(request_.up, token, head, u_.data());
    load_row(request_.dy, token, head, dy_.data());
    if (request_.kind == GateKind::relu_squared) {
      square();
    } else {
      swish();
    }
    const DType dtype = request_.gate.dtype;
    if (request_.dgate.data != nullptr) dgate_.store(loops_, dim, dtype, row_of(request_.dgate, dtype, token, head));
    if (request_.dup.data != nullptr) dup_.store(loops_, dim, dtype, row_of(request_.dup, dtype, token, head));
  }

 private:
  void square() {
    for (std::int64_t i = 0; i < request_.gate.dim; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double g = g_[at] < 0 ? 0.0 : static_cast<double>(g_[at]);
      const double dy = static_cast<double>(dy_[at]);
      dgate_.values()[i] = 2 * g * static_cast<double>(u_[at]) * dy;
      dup_.values()[i] = g * g * dy;
    }
  }

  void swish() {
    const bool clamped = request_.kind == GateKind::clamped_swish;
    const bool tanh = request_.kind == GateKind::gelu_tanh;
    const double factor = tanh ? kTwoRootTwoOverPi : clamped ? static_cast<double>(request_.alpha) : 1.0;
    const double shift = clamped && has_up_ ? 1 : 0;
    const float limit = request_.limit;
    const auto past = [&](float x) { return clamped && x > limit; };
    const auto far = [&](float u) { return has_up_ && (past(u) || past(-u)); };
    std::transform(g_.begin(), g_.end(), clamped_.begin(), [&](float g) { return past(g) ? limit : g; });
    const auto function = tanh ? kernels::GateFunction::gelu_tanh : kernels::GateFunction::silu;
    loops_.gate(function, factor, kCubic, clamped_.data(), nullptr, 0, request_.gate.dim, opened_.data(),
                errors_.data());
    for (std::int64_t i = 0; i < request_.gate.dim; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double g = static_cast<double>(clamped_[at]);
      const double u = static_cast<double>(far(u_[at]) ? std::copysign(limit, u_[at]) : u_[at]) + shift;
      const double dy = static_cast<double>(dy_[at]);
      const double s = g == 0 ? 0.5 : opened_[at] / g;
      const double slope = tanh ? factor * (1 + 3 * kCubic * g * g) : factor;
      dgate_.values()[i] = past(g_[at]) ? 0 : dy * u * (s + opened_[at] * slope * (1 - s));
      dup_.values()[i] = far(u_[at]) ? 0 : dy * opened_[at];
    }
  }

  const GateBackwardRequest& request_;
  const kernels::ForwardLoops& loops_;
  bool has_up_;
  std::vector<float> g_, u_, dy_, clamped_;
  std::vector<double> opened_, errors_;  // g s
  Row dgate_, dup_;
};

Result<void> validate(const GateBackwardRequest& request) {
  const TensorView& gate = request.gate;
  if (auto checked = validate_gate({request.kind, gate, request.up, request.alpha, request.limit, {}}); !checked) {
    return checked;
  }
  if (auto checked = validate_like("dy", request.dy, "gate", gate); !checked) return checked;
  if (request.dup.data != nullptr && request.up.data == nullptr) {
    return tiles::invalid("dup: wanted of a gate without up; expected NULL");
  }
  const std::vector inputs{range_of("gate", gate), range_of("up", request.up), range_of("dy", request.dy)};
  if (auto checked = validate_gradient("dgate", request.dgate, gate, inputs); !checked) return checked;
  return validate_gradient("dup", request.dup, gate, inputs);
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> gate_backward(const GateBackwardRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_with_loops(own);
    if (!setting) return tl::unexpected(setting.error());
    const TensorView& x = request.gate;
    return run(*setting, x.tokens * x.heads, kRowsAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Rows rows(request, *setting->loops);
      for (std::int64_t row = begin; row < end; ++row) rows.run(row / x.heads, row % x.heads);
      return std::int64_t{0};
    });
  };
  return detail::tiles::call(options, "computing gate_backward; nothing useful is in the outputs", work);
}

}  // namespace isologit::forward
