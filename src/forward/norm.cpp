// RMSNorm and LayerNorm. In f64 with u = 2^-53 and H = dim:
//   A sum of squares of chains of H / 16 terms is within (H / 16 + 6) u of itself, all its terms being positive; the
//   division by H, the sum with epsilon, the root (half of what came before) and the reciprocal round once each.
//   The mean is within (H / 16 + 6) u of the mean of magnitudes, and a division. With d_i = x_i - mean computed, its
//   mean of squares is the variance plus the square of the mean's error (the real deviations add up to 0).
// What that leaves open is settled over the rationals (exact/root.hpp): y = N / sqrt(Q) + b, with N = x w sqrt(H) or
// (H x - sum x) w, and Q = sum x^2 + H epsilon or H sum x^2 - (sum x)^2 + H^2 epsilon.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/text.hpp"
#include "exact/encode.hpp"
#include "exact/root.hpp"
#include "forward/validate.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using exact::BigFloat;
using isologit::forward::LayerNormRequest;
using isologit::forward::RmsNormRequest;

constexpr double kUnit = 0x1p-53;
constexpr std::int64_t kElementsAPiece = 8192;  // short rows, of heads, cost little each

BigFloat big(double x) { return BigFloat::from_double(x); }
BigFloat square(const BigFloat& x) { return multiply(x, x); }

// What both norms do to each row: the operands as f32 and one row's exact sums, made when they are needed.
struct Norm {
  TensorView x;
  std::vector<float> weight, bias;
  float epsilon;
  bool one_plus_weight;
  bool centred;  // LayerNorm
  TensorOutput y;
};

// One row by the definition.
class ExactRow {
 public:
  ExactRow(const Norm& norm, const float* x) : norm_(norm), x_(x), size_(static_cast<double>(norm.x.dim)) {
    for (std::int64_t i = 0; i < norm.x.dim; ++i) finite_ = finite_ && std::isfinite(x[i]);
    if (!finite_) return;
    BigFloat squares;
    for (std::int64_t i = 0; i < norm.x.dim; ++i) {
      squares = add(squares, big(static_cast<double>(x[i]) * static_cast<double>(x[i])));
      if (norm.centred) sum_ = add(sum_, big(static_cast<double>(x[i])));
    }
    const BigFloat epsilon = multiply(big(static_cast<double>(norm.epsilon)), big(size_));
    if (norm.centred) {
      under_ = subtract(multiply(big(size_), add(squares, epsilon)), square(sum_));
    } else {
      under_ = add(squares, epsilon);
    }
  }

  float result(std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    const double x = static_cast<double>(x_[i]);
    const double w = norm_.weight.empty() ? 1.0 : static_cast<double>(norm_.weight[at]);
    const double b = norm_.bias.empty() ? 0.0 : static_cast<double>(norm_.bias[at]);
    if (!finite_ || under_.is_zero() || !std::isfinite(w) || !std::isfinite(b)) return special(x, w, b);
    const BigFloat weight = norm_.one_plus_weight ? add(big(1), big(w)) : big(w);
    const BigFloat deviation = norm_.centred ? subtract(multiply(big(size_), big(x)), sum_) : big(x);
    const BigFloat over = multiply(deviation, weight);
    const BigFloat numerator = norm_.centred ? square(over) : multiply(square(over), big(size_));
    const auto& format = exact::format_of(norm_.x.dtype);
    return static_cast<float>(exact::round_with_root(big(b), over.negative, numerator, under_, format));
  }

 private:
  // IEEE's special values of the definition's operations in its order, with the real number's place taken by any
  // number of its sign.
  float special(double x, double w, double b) const {
    const double factor = norm_.one_plus_weight ? 1 + w : w;
    double over = x * factor;
    double under = finite_ ? exact::round(under_, exact::kF64) : infinity_or_nan();
    if (norm_.centred) {
      if (!finite_) return exact::quiet_nan();  // the mean, or the deviation of an infinite element, is NaN
      const BigFloat deviation = subtract(multiply(big(size_), big(x)), sum_);
      over = sign_of(deviation) * factor;
    }
    return static_cast<float>(exact::narrow(over / std::sqrt(under) + b, norm_.x.dtype));
  }

  double infinity_or_nan() const {
    for (std::int64_t i = 0; i < norm_.x.dim; ++i) {
      if (std::isnan(x_[i])) return std::numeric_limits<double>::quiet_NaN();
    }
    return std::numeric_limits<double>::infinity();
  }

  const Norm& norm_;
  const float* x_;
  double size_;
  bool finite_ = true;
  BigFloat sum_;
  BigFloat under_;
};

// The row's factor and shift with their errors; `ones` are as many as x.
kernels::NormRow statistics(const Norm& norm, const kernels::ForwardLoops& loops, const float* x, const float* ones,
                            std::vector<float>& magnitudes) {
  const auto size = static_cast<double>(norm.x.dim);
  const double chain = (size / 16 + 6) * kUnit;
  kernels::NormRow row;
  row.one_plus_weight = norm.one_plus_weight;
  double squares = 0;
  double lost = 0;  // of the mean square, beside rounding
  if (norm.centred) {
    std::transform(x, x + kernels::padded(norm.x.dim), magnitudes.begin(), [](float v) { return std::fabs(v); });
    row.shift = loops.dot(x, ones, norm.x.dim) / size;
    row.shift_error = (chain + 2 * kUnit) * 1.001 * loops.dot(magnitudes.data(), ones, norm.x.dim) / size;
    for (std::int64_t i = 0; i < norm.x.dim; ++i) {
      const double d = static_cast<double>(x[i]) - row.shift;
      squares += d * d;
    }
    lost = row.shift_error * row.shift_error;
  } else {
    squares = loops.dot(x, x, norm.x.dim);
  }
  const double mean = squares / size + static_cast<double>(norm.epsilon);
  row.factor = 1 / std::sqrt(mean);
  // Of a plain sum, the chain is of H terms, each with three roundings.
  const double rounding = norm.centred ? (size + 8) * kUnit : chain + 3 * kUnit;
  row.factor_error = (rounding + lost / mean) * 1.01 + 3 * kUnit;
  return row;
}

// One thread's memory, and what it does to a row.
class Rows {
 public:
  Rows(const Norm& norm, const kernels::ForwardLoops* loops)
      : norm_(norm),
        loops_(loops),
        ones_(padded()),
        x_(padded()),
        scratch_(padded()),
        open_weight_(padded()),
        open_(norm.x.dim),
        row_(norm.x.dim) {
    std::fill(ones_.begin(), ones_.begin() + norm.x.dim, 1.0F);
  }

  std::int64_t run(std::int64_t token, std::int64_t head) {
    load_row(norm_.x, token, head, x_.data());
    void* to = row_of(norm_.y, norm_.x.dtype, token, head);
    std::optional<ExactRow> exact_row;
    const auto settle = [&](std::int64_t i) {
      if (!exact_row) exact_row.emplace(norm_, x_.data());
      return exact_row->result(i);
    };
    if (loops_ == nullptr) return row_.finish(loops_, norm_.x.dim, norm_.x.dtype, to, settle);
    const kernels::NormRow row = statistics(norm_, *loops_, x_.data(), ones_.data(), scratch_);
    if (!in_f32(row)) {
      loops_->norm(row, x_.data(), weight(), bias(), norm_.x.dim, row_.values(), row_.errors());
      return row_.finish(loops_, norm_.x.dim, norm_.x.dtype, to, settle);
    }
    const std::int64_t opened = loops_->norm_bf16(static_cast<float>(row.factor), row.one_plus_weight, x_.data(),
                                                  weight(), norm_.x.dim, to, open_.list());
    if (opened == 0) return 0;
    open_.gather(x_.data(), opened, scratch_.data());
    if (weight() != nullptr) open_.gather(weight(), opened, open_weight_.data());
    loops_->norm(row, scratch_.data(), weight() != nullptr ? open_weight_.data() : nullptr, nullptr, opened,
                 row_.values(), row_.errors());
    return row_.finish_open(loops_, open_, opened, to, settle);
  }

 private:
  std::size_t padded() const { return static_cast<std::size_t>(kernels::padded(norm_.x.dim)); }
  const float* weight() const { return norm_.weight.empty() ? nullptr : norm_.weight.data(); }
  const float* bias() const { return norm_.bias.empty() ? nullptr : norm_.bias.data(); }

  // Whether the loop of bf16 takes it.
  bool in_f32(const kernels::NormRow& row) const {
    return norm_.x.dtype == DType::bf16 && !norm_.centred && bias() == nullptr && row.factor >= 0x1p-60 &&
           row.factor <= 0x1p60 && row.factor_error <= 0x1p-30;
  }

  const Norm& norm_;
  const kernels::ForwardLoops* loops_;
  std::vector<float> ones_, x_, scratch_, open_weight_;
  OpenElements open_;
  Row row_;
};

Result<Report> run_norm(const Norm& norm, const Options& options) {
  const auto setting = setting_of(options);
  if (!setting) return tl::unexpected(setting.error());
  const auto piece = [&](int, std::int64_t begin, std::int64_t end) {
    Rows rows(norm, setting->loops);
    std::int64_t settled = 0;
    for (std::int64_t r = begin; r < end; ++r) settled += rows.run(r / norm.x.heads, r % norm.x.heads);
    return settled;
  };
  return run(*setting, norm.x.tokens * norm.x.heads, std::max<std::int64_t>(kElementsAPiece / norm.x.dim, 1), piece);
}

Result<void> validate(const TensorView& x, const VectorView& weight, const VectorView& bias, float epsilon,
                      const TensorOutput& y) {
  if (auto checked = validate_tensor("x", x); !checked) return checked;
  if (auto checked = validate_vector("weight", weight, x.dim); !checked) return checked;
  if (auto checked = validate_vector("bias", bias, x.dim); !checked) return checked;
  if (auto checked = validate_epsilon(epsilon); !checked) return checked;
  return validate_output(y, x, {&x}, {tiles::range_of("weight", weight), tiles::range_of("bias", bias)});
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> rms_norm(const RmsNormRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request.x, request.weight, {}, request.epsilon, request.y); !checked) {
      return tl::unexpected(checked.error());
    }
    const Norm norm{request.x, load_vector(request.weight), {}, request.epsilon, request.one_plus_weight, false,
                    request.y};
    return run_norm(norm, own);
  };
  return detail::tiles::call(options, "computing rms_norm; nothing useful is in the output", work);
}

Result<Report> layer_norm(const LayerNormRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request.x, request.weight, request.bias, request.epsilon, request.y); !checked) {
      return tl::unexpected(checked.error());
    }
    const Norm norm{request.x, load_vector(request.weight), load_vector(request.bias), request.epsilon, false, true,
                    request.y};
    return run_norm(norm, own);
  };
  return detail::tiles::call(options, "computing layer_norm; nothing useful is in the output", work);
}

}  // namespace isologit::forward
