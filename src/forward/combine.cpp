// Weighted sums of the outputs of experts, and their gradients: y = sum of p_e x_e. Products of two f32 are exact in
// f64; a chain of k of them is within (k - 1) 2^-53 of the sum of their magnitudes, and what that leaves open is summed
// exactly.
#include <array>
#include <cmath>
#include <vector>

#include "base/text.hpp"
#include "exact/encode.hpp"
#include "exact/superaccumulator.hpp"
#include "forward/validate.hpp"
#include "isologit/forward_backward.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::CombineBackwardRequest;
using isologit::forward::CombineRequest;

constexpr std::int64_t kTokensAPiece = 8;

class Experts {
 public:
  Experts(const CombineRequest& request, const kernels::ForwardLoops* loops)
      : request_(request),
        loops_(loops),
        stride_(kernels::padded(request.x.dim)),
        x_(static_cast<std::size_t>(stride_ * request.x.heads)),
        row_(request.x.dim) {}

  void load(std::int64_t token) {
    for (std::int64_t e = 0; e < request_.x.heads; ++e) load_row(request_.x, token, e, x_.data() + e * stride_);
  }

  double weight(std::int64_t token, std::int64_t e) const {
    return static_cast<double>(request_.weights[static_cast<std::size_t>(token * request_.x.heads + e)]);
  }

  std::int64_t combine(std::int64_t token) {
    load(token);
    const std::int64_t experts = request_.x.heads;
    for (std::int64_t i = 0; i < request_.x.dim; ++i) {
      double sum = 0;
      double size = 0;
      for (std::int64_t e = 0; e < experts; ++e) {
        const double term = weight(token, e) * static_cast<double>(x_[static_cast<std::size_t>(e * stride_ + i)]);
        sum += term;
        size += std::fabs(term);
      }
      row_.values()[i] = sum;
      row_.errors()[i] = size * static_cast<double>(experts) * 0x1p-53;
    }
    const DType dtype = request_.x.dtype;
    return row_.finish(loops_, request_.x.dim, dtype, row_of(request_.y, dtype, token, 0), [&](std::int64_t i) {
      exact::Sum sum;
      for (std::int64_t e = 0; e < experts; ++e) {
        sum.add(weight(token, e) * static_cast<double>(x_[static_cast<std::size_t>(e * stride_ + i)]));
      }
      return static_cast<float>(sum.round(exact::format_of(dtype)));
    });
  }

  void differentiate(const CombineBackwardRequest& request, std::int64_t token) {
    load(token);
    std::vector<float> dy(static_cast<std::size_t>(stride_));
    load_row(request.dy, token, 0, dy.data());
    const DType dtype = request_.x.dtype;
    for (std::int64_t e = 0; e < request_.x.heads; ++e) {
      if (request.dweights != nullptr) {
        request.dweights[token * request_.x.heads + e] =
            static_cast<float>(exact::narrow(loops_->dot(x_.data() + e * stride_, dy.data(), stride_), DType::f32));
      }
      if (request.dx.data == nullptr) continue;
      for (std::int64_t i = 0; i < request_.x.dim; ++i) {
        row_.values()[i] = weight(token, e) * static_cast<double>(dy[static_cast<std::size_t>(i)]);
      }
      row_.store(*loops_, request_.x.dim, dtype, row_of(request.dx, dtype, token, e));
    }
  }

 private:
  const CombineRequest& request_;
  const kernels::ForwardLoops* loops_;
  std::int64_t stride_;
  std::vector<float> x_;
  Row row_;
};

Result<void> validate(const CombineRequest& request) {
  if (auto checked = validate_tensor("x", request.x); !checked) return checked;
  const auto count = static_cast<std::int64_t>(request.weights.size());
  if (count != request.x.tokens * request.x.heads) {
    return tiles::invalid(base::concat("weights: ", count, "; expected one for each of ", request.x.tokens, " tokens' ",
                                       request.x.heads, " experts"));
  }
  return {};
}

// The shape of the sums.
TensorView sums_of(const TensorView& x) {
  TensorView sums = x;
  sums.heads = 1;
  return sums;
}

Result<void> validate(const CombineBackwardRequest& request) {
  const TensorView& x = request.combine.x;
  if (auto checked = validate(request.combine); !checked) return checked;
  if (auto checked = validate_like("dy", request.dy, "the result", sums_of(x)); !checked) return checked;
  const std::span<const float> weights = request.combine.weights;
  std::vector inputs{range_of("x", x), tiles::range_of("weights", weights), range_of("dy", request.dy)};
  const auto bytes = static_cast<std::int64_t>(weights.size_bytes());
  const std::array dweights{tiles::range_of("dweights", request.dweights, bytes)};
  if (auto checked = tiles::check_apart(dweights, inputs); !checked) return checked;
  inputs.push_back(dweights[0]);
  return validate_gradient("dx", request.dx, x, inputs);
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> combine(const CombineRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    if (auto checked = validate_output(request.y, sums_of(request.x), {},
                                       {range_of("x", request.x), detail::tiles::range_of("weights", request.weights)});
        !checked) {
      return tl::unexpected(checked.error());
    }
    const auto setting = setting_of(own);
    if (!setting) return tl::unexpected(setting.error());
    return run(*setting, request.x.tokens, kTokensAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Experts experts(request, setting->loops);
      std::int64_t settled = 0;
      for (std::int64_t token = begin; token < end; ++token) settled += experts.combine(token);
      return settled;
    });
  };
  return detail::tiles::call(options, "computing combine; nothing useful is in the output", work);
}

Result<Report> combine_backward(const CombineBackwardRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    const CombineRequest& of = request.combine;
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_with_loops(own);
    if (!setting) return tl::unexpected(setting.error());
    return run(*setting, of.x.tokens, kTokensAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Experts experts(of, setting->loops);
      for (std::int64_t token = begin; token < end; ++token) experts.differentiate(request, token);
      return std::int64_t{0};
    });
  };
  return detail::tiles::call(options, "computing combine_backward; nothing useful is in the outputs", work);
}

}  // namespace isologit::forward
