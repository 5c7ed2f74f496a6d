// Gradients of RMSNorm and LayerNorm. With d = x or x - mean, g the factor of an element, r = 1 / sqrt(mean(d^2) +
// epsilon) and u = g dy:
//   dx_i = r (u_i - mean(u) - d_i r^2 mean(u d)), without mean(u) for RMSNorm; dweight_i = sum of dy_i d_i r, dbias_i =
//   sum of dy_i over the rows.
// In f64, every product of three factors rounds a few times and sums are chains of dim / 8 or fewer terms, so dx is
// within (dim / 8 + 40) 2^-53 of the sum of its terms' magnitudes, and the others within (rows / 256 + 256 + 40) 2^-53.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/text.hpp"
#include "forward/validate.hpp"
#include "isologit/forward_backward.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::LayerNormBackwardRequest;
using isologit::forward::RmsNormBackwardRequest;

constexpr std::int64_t kFewestRowsAPiece = 64;
constexpr std::int64_t kMostPieces = 256;

// What both norms have.
struct Norm {
  TensorView x, dy;
  VectorView weight;
  float epsilon;
  bool one_plus_weight;
  bool centred;  // LayerNorm
  TensorOutput dx;
  void* dweight;
  void* dbias;
  DType dbias_dtype;
};

// The sum of term(i), in eight chains.
template <class Term>
double sum_of(std::int64_t count, Term term) {
  constexpr std::int64_t kChains = 8;
  std::array<double, kChains> chains{};
  for (std::int64_t i = 0; i < count; ++i)
    chains[static_cast<std::size_t>(i % kChains)] += term(static_cast<std::size_t>(i));
  for (std::size_t step = kChains / 2; step > 0; step /= 2) {
    for (std::size_t c = 0; c < step; ++c) chains[c] += chains[c + step];
  }
  return chains[0];
}

// One thread's memory for a row.
class Rows {
 public:
  Rows(const Norm& norm, const std::vector<double>& factors, const kernels::ForwardLoops& loops)
      : norm_(norm),
        loops_(loops),
        factors_(factors),
        x_(static_cast<std::size_t>(kernels::padded(norm.x.dim))),
        dy_(x_.size()),
        deviations_(x_.size()),
        row_(norm.x.dim) {}

  // Adds to dweight and dbias, where these are wanted.
  void run(std::int64_t token, std::int64_t head, double* dweight, double* dbias) {
    const std::int64_t dim = norm_.x.dim;
    const auto size = static_cast<double>(dim);
    load_row(norm_.x, token, head, x_.data());
    load_row(norm_.dy, token, head, dy_.data());
    find_deviations();
    const double mean = sum_of(dim, [&](std::size_t i) { return deviations_[i] * deviations_[i]; }) / size;
    const double r = 1 / std::sqrt(mean + static_cast<double>(norm_.epsilon));
    for (std::int64_t i = 0; i < dim; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (dweight != nullptr) dweight[i] += static_cast<double>(dy_[at]) * (deviations_[at] * r);
      if (dbias != nullptr) dbias[i] += static_cast<double>(dy_[at]);
    }
    if (norm_.dx.data == nullptr) return;
    const auto upstream = [&](std::size_t i) { return static_cast<double>(dy_[i]) * factors_[i]; };
    const double shift = norm_.centred ? sum_of(dim, upstream) / size : 0;
    const double along = sum_of(dim, [&](std::size_t i) { return upstream(i) * (deviations_[i] * r); }) / size;
    for (std::int64_t i = 0; i < dim; ++i) {
      const auto at = static_cast<std::size_t>(i);
      row_.values()[i] = r * (upstream(at) - shift - deviations_[at] * r * along);
    }
    row_.store(loops_, dim, norm_.x.dtype, row_of(norm_.dx, norm_.x.dtype, token, head));
  }

 private:
  // From the mean in two steps: the second sum is of what the first leaves, so that deviations keep their own accuracy
  // however large the mean is.
  void find_deviations() {
    const std::int64_t dim = norm_.x.dim;
    std::copy(x_.begin(), x_.end(), deviations_.begin());
    for (int step = 0; step < (norm_.centred ? 2 : 0); ++step) {
      const double mean = sum_of(dim, [&](std::size_t i) { return deviations_[i]; }) / static_cast<double>(dim);
      for (double& deviation : deviations_) deviation -= mean;
    }
  }

  const Norm& norm_;
  const kernels::ForwardLoops& loops_;
  const std::vector<double>& factors_;
  std::vector<float> x_, dy_;
  std::vector<double> deviations_;
  Row row_;
};

std::vector<double> factors_of(const Norm& norm) {
  std::vector<double> factors(static_cast<std::size_t>(norm.x.dim), 1.0);
  const std::vector<float> weight = load_vector(norm.weight);
  for (std::size_t i = 0; i < factors.size() && !weight.empty(); ++i) {
    factors[i] = (norm.one_plus_weight ? 1.0 : 0.0) + static_cast<double>(weight[i]);
  }
  return factors;
}

Result<Report> run_norm(const Norm& norm, const Options& options) {
  const auto setting = setting_with_loops(options);
  if (!setting) return tl::unexpected(setting.error());
  const std::int64_t rows = norm.x.tokens * norm.x.heads;
  const std::int64_t a_piece = std::max(kFewestRowsAPiece, (rows + kMostPieces - 1) / kMostPieces);
  const auto cells = static_cast<std::size_t>((rows + a_piece - 1) / a_piece * norm.x.dim);
  std::vector<double> dweight(norm.dweight == nullptr ? 0 : cells);
  std::vector<double> dbias(norm.dbias == nullptr ? 0 : cells);
  const std::vector<double> factors = factors_of(norm);
  const auto report = run(*setting, rows, a_piece, [&](int, std::int64_t begin, std::int64_t end) {
    Rows worker(norm, factors, *setting->loops);
    const std::int64_t cell = begin / a_piece * norm.x.dim;
    double* weight = dweight.empty() ? nullptr : dweight.data() + cell;
    double* bias = dbias.empty() ? nullptr : dbias.data() + cell;
    for (std::int64_t r = begin; r < end; ++r) worker.run(r / norm.x.heads, r % norm.x.heads, weight, bias);
    return std::int64_t{0};
  });
  if (!report) return report;
  if (norm.dweight != nullptr) store_sums(dweight, norm.x.dim, norm.weight.dtype, norm.dweight);
  if (norm.dbias != nullptr) store_sums(dbias, norm.x.dim, norm.dbias_dtype, norm.dbias);
  return report;
}

tiles::Range vector_range(std::string_view name, const void* data, std::int64_t dim, DType dtype) {
  return tiles::range_of(name, VectorView{data, dtype, data == nullptr ? 0 : dim});
}

Result<void> validate(const Norm& norm) {
  const TensorView& x = norm.x;
  if (auto checked = validate_tensor("x", x); !checked) return checked;
  if (auto checked = validate_like("dy", norm.dy, "x", x); !checked) return checked;
  if (auto checked = validate_vector("weight", norm.weight, x.dim); !checked) return checked;
  if (auto checked = validate_epsilon(norm.epsilon); !checked) return checked;
  if (norm.dweight != nullptr && norm.weight.data == nullptr) {
    return tiles::invalid("dweight: wanted of a norm without weight; expected NULL");
  }
  const std::array vectors{vector_range("dweight", norm.dweight, x.dim, norm.weight.dtype),
                           vector_range("dbias", norm.dbias, x.dim, norm.dbias_dtype)};
  std::vector inputs{range_of("x", x), range_of("dy", norm.dy), tiles::range_of("weight", norm.weight)};
  if (auto checked = tiles::check_apart(vectors, inputs); !checked) return checked;
  inputs.insert(inputs.end(), vectors.begin(), vectors.end());
  return validate_gradient("dx", norm.dx, x, inputs);
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> rms_norm_backward(const RmsNormBackwardRequest& request, const Options& options) {
  using namespace detail::forward;
  const Norm norm{request.x, request.dy, request.weight,  request.epsilon, request.one_plus_weight,
                  false,     request.dx, request.dweight, nullptr,         DType::f32};
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(norm); !checked) return tl::unexpected(checked.error());
    return run_norm(norm, own);
  };
  return detail::tiles::call(options, "computing rms_norm_backward; nothing useful is in the outputs", work);
}

Result<Report> layer_norm_backward(const LayerNormBackwardRequest& request, const Options& options) {
  using namespace detail::forward;
  const Norm norm{request.x, request.dy, request.weight,  request.epsilon, false,
                  true,      request.dx, request.dweight, request.dbias,   request.dbias_dtype};
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(norm); !checked) return tl::unexpected(checked.error());
    return run_norm(norm, own);
  };
  return detail::tiles::call(options, "computing layer_norm_backward; nothing useful is in the outputs", work);
}

}  // namespace isologit::forward
