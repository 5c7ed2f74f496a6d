// Residual sums: exact sums of two or three real terms, rounded once. A product with the multiplier is exact in f64.
#include <cmath>
#include <vector>

#include "exact/encode.hpp"
#include "exact/row.hpp"
#include "exact/superaccumulator.hpp"
#include "forward/validate.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::ResidualRequest;

constexpr std::int64_t kRowsAPiece = 8;

class Residual {
 public:
  Residual(const ResidualRequest& request, const kernels::ForwardLoops* loops)
      : request_(request), loops_(loops), x_(padded()), a_(padded()), b_(padded()), y_(padded()), open_(padded()) {}

  std::int64_t add_row(std::int64_t token, std::int64_t head) {
    const TensorView& x = request_.x;
    load_row(x, token, head, x_.data());
    load_row(request_.a, token, head, a_.data());
    if (request_.b.data != nullptr) load_row(request_.b, token, head, b_.data());
    void* to = row_of(request_.y, x.dtype, token, head);
    std::int64_t settled = 0;
    if (loops_ != nullptr && request_.b.data == nullptr && x.dtype == DType::bf16 && request_.multiplier == 1) {
      settled = loops_->add_bf16(x_.data(), a_.data(), x.dim, to, open_.data());
      for (std::int64_t k = 0; k < settled; ++k) {
        const auto i = static_cast<std::size_t>(open_[static_cast<std::size_t>(k)]);
        exact::store_element(static_cast<char*>(to) + 2 * i, DType::bf16, static_cast<double>(sum(i)));
      }
      return settled;
    }
    if (loops_ == nullptr || request_.b.data != nullptr) {
      for (std::int64_t i = 0; i < x.dim; ++i) y_[static_cast<std::size_t>(i)] = sum(static_cast<std::size_t>(i));
    } else {
      const auto factor = static_cast<double>(request_.multiplier);
      settled = loops_->add(x_.data(), a_.data(), factor, x.dim, x.dtype, y_.data(), open_.data());
      for (std::int64_t k = 0; k < settled; ++k) {
        const auto i = static_cast<std::size_t>(open_[static_cast<std::size_t>(k)]);
        y_[i] = sum(i);
      }
    }
    exact::narrow_row(y_.data(), x.dtype, x.dim, to);
    return settled;
  }

 private:
  std::size_t padded() const { return static_cast<std::size_t>(kernels::padded(request_.x.dim)); }

  float sum(std::size_t i) const {
    exact::Sum sum;
    sum.add(static_cast<double>(x_[i]));
    sum.add(static_cast<double>(request_.multiplier) * static_cast<double>(a_[i]));
    if (request_.b.data != nullptr) sum.add(static_cast<double>(b_[i]));
    return static_cast<float>(sum.round(exact::format_of(request_.x.dtype)));
  }

  const ResidualRequest& request_;
  const kernels::ForwardLoops* loops_;
  std::vector<float> x_, a_, b_, y_;
  std::vector<std::int32_t> open_;
};

Result<void> validate(const ResidualRequest& request) {
  if (auto checked = validate_tensor("x", request.x); !checked) return checked;
  if (auto checked = validate_like("a", request.a, "x", request.x); !checked) return checked;
  if (request.b.data != nullptr) {
    if (auto checked = validate_like("b", request.b, "x", request.x); !checked) return checked;
  }
  if (auto checked = validate_finite("multiplier", request.multiplier); !checked) return checked;
  return validate_output(request.y, request.x, {&request.x, &request.a, &request.b}, {});
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> residual(const ResidualRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_of(own);
    if (!setting) return tl::unexpected(setting.error());
    const TensorView& x = request.x;
    return run(*setting, x.tokens * x.heads, kRowsAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Residual residual(request, setting->loops);
      std::int64_t settled = 0;
      for (std::int64_t row = begin; row < end; ++row) settled += residual.add_row(row / x.heads, row % x.heads);
      return settled;
    });
  };
  return detail::tiles::call(options, "computing residual; nothing useful is in the output", work);
}

}  // namespace isologit::forward
