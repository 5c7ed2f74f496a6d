// Rotary embeddings. What f64 leaves open is settled in balls, which always end: for an angle other than 0, e^(ia) is
// transcendental (Lindemann 1882), so a cos - b sin is no rational number unless a = b = 0; at angle 0 it is a.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/text.hpp"
#include "exact/encode.hpp"
#include "exact/row.hpp"
#include "exact/trigonometry.hpp"
#include "forward/validate.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using exact::Ball;
using exact::BigFloat;
using isologit::forward::RotaryLayout;
using isologit::forward::RotaryRequest;

constexpr std::int64_t kTokensAPiece = 4;

exact::SineCosine turn_of(std::int64_t position, float frequency, std::size_t limbs) {
  return exact::sine_cosine(multiply(BigFloat::from_double(static_cast<double>(position)),
                                     BigFloat::from_double(static_cast<double>(frequency))),
                            limbs);
}

// factor (x cos + y sin), rounded once.
float settle(double factor, double x, double y, std::int64_t position, float frequency, DType dtype) {
  const auto special = [&](double cosine, double sine) {
    return static_cast<float>(exact::narrow(factor * (x * cosine + y * sine), dtype));
  };
  if (position == 0 || frequency == 0 || (x == 0 && y == 0) || factor == 0) return special(1, 0);
  if (!std::isfinite(x) || !std::isfinite(y)) {
    const auto [sine, cosine] = turn_of(position, frequency, 3);
    return special(sign(cosine), sign(sine));
  }
  for (std::size_t limbs = 3;; limbs *= 2) {
    const auto [sine, cosine] = turn_of(position, frequency, limbs);
    const Ball sum = add(multiply(Ball::exact(x), cosine, limbs), multiply(Ball::exact(y), sine, limbs), limbs);
    const Ball turned = multiply(sum, Ball::exact(factor), limbs);
    if (const auto rounded = try_round(turned, exact::format_of(dtype))) return static_cast<float>(*rounded);
  }
}

class Rotary {
 public:
  Rotary(const RotaryRequest& request, const kernels::ForwardLoops* loops)
      : request_(request),
        loops_(loops),
        pairs_(static_cast<std::int64_t>(request.frequencies.size())),
        frequencies_(padded()),
        cosine_(padded()),
        sine_(padded()),
        first_(padded()),
        second_(padded()),
        errors_(padded()),
        left_(padded()),
        right_(padded()),
        short_cosine_(padded()),
        short_sine_(padded()),
        x_(static_cast<std::size_t>(kernels::padded(request.x.dim) + kernels::kLaneGroup)),
        open_(request.x.dim),
        row_(request.x.dim) {
    std::copy(request.frequencies.begin(), request.frequencies.end(), frequencies_.begin());
  }

  std::int64_t turn(std::int64_t token) {
    const std::int64_t position = request_.positions[static_cast<std::size_t>(token)];
    if (loops_ != nullptr) loops_->turns(position, frequencies_.data(), pairs_, cosine_.data(), sine_.data());
    if (in_f32()) {
      const auto to_f32 = [](double x) { return static_cast<float>(x); };
      std::transform(cosine_.begin(), cosine_.end(), short_cosine_.begin(), to_f32);
      std::transform(sine_.begin(), sine_.end(), short_sine_.begin(), to_f32);
    }
    std::int64_t settled = 0;
    for (std::int64_t head = 0; head < request_.x.heads; ++head) settled += turn_head(token, head, position);
    return settled;
  }

 private:
  std::size_t padded() const {
    return static_cast<std::size_t>(kernels::padded(static_cast<std::int64_t>(request_.frequencies.size())));
  }

  // The places of pair j's elements.
  std::int64_t first_of(std::int64_t j) const { return request_.layout == RotaryLayout::halves ? j : 2 * j; }
  std::int64_t second_of(std::int64_t j) const {
    return request_.layout == RotaryLayout::halves ? j + pairs_ : 2 * j + 1;
  }

  std::int64_t turn_head(std::int64_t token, std::int64_t head, std::int64_t position) {
    const TensorView& x = request_.x;
    load_row(x, token, head, x_.data());
    void* to = row_of(request_.y, x.dtype, token, head);
    const auto settle = [&](std::int64_t i) { return settled_element(i, position); };
    std::int64_t settled = 0;
    if (in_f32()) {
      settled = turn_halves(to, settle);
    } else {
      if (loops_ != nullptr) compute();
      settled = row_.finish(loops_, 2 * pairs_, x.dtype, to, settle);
    }
    const std::int64_t rest = x.dim - 2 * pairs_;
    char* after = static_cast<char*>(to) + 2 * pairs_ * static_cast<std::int64_t>(dtype_size(x.dtype));
    exact::narrow_row(x_.data() + 2 * pairs_, x.dtype, rest, after);
    return settled;
  }

  // Whether the loop of bf16 takes it.
  bool in_f32() const {
    return loops_ != nullptr && request_.x.dtype == DType::bf16 && request_.layout == RotaryLayout::halves;
  }

  float settled_element(std::int64_t i, std::int64_t position) const {
    const bool halves = request_.layout == RotaryLayout::halves;
    const std::int64_t j = halves ? i % pairs_ : i / 2;
    const double a = static_cast<double>(x_[static_cast<std::size_t>(first_of(j))]);
    const double b = static_cast<double>(x_[static_cast<std::size_t>(second_of(j))]);
    const float frequency = request_.frequencies[static_cast<std::size_t>(j)];
    const auto factor = static_cast<double>(request_.factor);
    return i == first_of(j) ? settle(factor, a, -b, position, frequency, request_.x.dtype)
                            : settle(factor, b, a, position, frequency, request_.x.dtype);
  }

  // The values of a head and their errors.
  void compute() {
    for (std::int64_t j = 0; j < pairs_; ++j) {
      left_[static_cast<std::size_t>(j)] = x_[static_cast<std::size_t>(first_of(j))];
      right_[static_cast<std::size_t>(j)] = x_[static_cast<std::size_t>(second_of(j))];
    }
    loops_->rotate(left_.data(), right_.data(), cosine_.data(), sine_.data(), static_cast<double>(request_.factor),
                   pairs_, first_.data(), second_.data(), errors_.data());
    for (std::int64_t j = 0; j < pairs_; ++j) {
      const auto at = static_cast<std::size_t>(j);
      place(first_of(j), first_[at], errors_[at]);
      place(second_of(j), second_[at], errors_[at]);
    }
  }

  // The same of bf16 in f32; what that leaves open in f64, of its whole head: that is rare.
  template <class Settle>
  std::int64_t turn_halves(void* to, const Settle& settle) {
    const std::int64_t opened =
        loops_->rotate_bf16(x_.data(), x_.data() + pairs_, short_cosine_.data(), short_sine_.data(), request_.factor,
                            pairs_, to, static_cast<char*>(to) + 2 * pairs_, open_.list());
    if (opened == 0) return 0;
    compute();
    return row_.finish(loops_, 2 * pairs_, DType::bf16, to, settle);
  }

  void place(std::int64_t i, double value, double error) {
    row_.values()[i] = value;
    row_.errors()[i] = error;
  }

  const RotaryRequest& request_;
  const kernels::ForwardLoops* loops_;
  std::int64_t pairs_;
  std::vector<float> frequencies_;
  std::vector<double> cosine_, sine_, first_, second_, errors_;
  std::vector<float> left_, right_, short_cosine_, short_sine_, x_;
  OpenElements open_;
  Row row_;
};

Result<void> validate(const RotaryRequest& request) {
  const TensorView& x = request.x;
  if (auto checked = validate_tensor("x", x); !checked) return checked;
  const auto pairs = static_cast<std::int64_t>(request.frequencies.size());
  if (pairs < 1 || 2 * pairs > x.dim) {
    return tiles::invalid(
        base::concat("frequencies: ", pairs, " for heads of ", x.dim, " elements; expected 1 to ", x.dim / 2));
  }
  for (std::int64_t j = 0; j < pairs; ++j) {
    const float f = request.frequencies[static_cast<std::size_t>(j)];
    if (!(f >= 0 && f <= 1)) return tiles::invalid(base::concat("frequencies[", j, "]: ", f, "; expected 0 to 1"));
  }
  const auto count = static_cast<std::int64_t>(request.positions.size());
  if (count != x.tokens) return tiles::invalid(base::concat("positions: ", count, " for ", x.tokens, " tokens"));
  for (std::int64_t t = 0; t < count; ++t) {
    const std::int64_t position = request.positions[static_cast<std::size_t>(t)];
    if (position < 0 || position >= std::int64_t{1} << 31) {
      return tiles::invalid(base::concat("positions[", t, "]: ", position, "; expected 0 to 2147483647"));
    }
  }
  if (auto checked = validate_finite("factor", request.factor); !checked) return checked;
  return validate_output(
      request.y, x, {&x},
      {tiles::range_of("positions", request.positions), tiles::range_of("frequencies", request.frequencies)});
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> rotary(const RotaryRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_of(own);
    if (!setting) return tl::unexpected(setting.error());
    return run(*setting, request.x.tokens, kTokensAPiece, [&](int, std::int64_t begin, std::int64_t end) {
      Rotary rotary(request, setting->loops);
      std::int64_t settled = 0;
      for (std::int64_t token = begin; token < end; ++token) settled += rotary.turn(token);
      return settled;
    });
  };
  return detail::tiles::call(options, "computing rotary; nothing useful is in the output", work);
}

}  // namespace isologit::forward
