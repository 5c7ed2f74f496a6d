#include "forward/rows.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/asking.hpp"
#include "base/cpu.hpp"
#include "base/thread_pool.hpp"
#include "exact/encode.hpp"
#include "exact/row.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {

std::int64_t offset_of(const TensorView& x, std::int64_t token, std::int64_t head) {
  return (token * x.token_stride + head * x.head_stride) * static_cast<std::int64_t>(dtype_size(x.dtype));
}

const void* row_of(const TensorView& x, std::int64_t token, std::int64_t head) {
  return static_cast<const char*>(x.data) + offset_of(x, token, head);
}

void* row_of(const TensorOutput& y, DType dtype, std::int64_t token, std::int64_t head) {
  return static_cast<char*>(y.data) +
         (token * y.token_stride + head * y.head_stride) * static_cast<std::int64_t>(dtype_size(dtype));
}

void load_row(const TensorView& x, std::int64_t token, std::int64_t head, float* to) {
  exact::widen_row(row_of(x, token, head), x.dtype, x.dim, to);
  std::fill(to + x.dim, to + kernels::padded(x.dim), 0.0F);
}

std::vector<float> load_vector(const VectorView& vector) {
  if (vector.data == nullptr) return {};
  std::vector<float> values(static_cast<std::size_t>(kernels::padded(vector.size)));
  exact::widen_row(vector.data, vector.dtype, vector.size, values.data());
  return values;
}

std::optional<float> proven(double value, double error, DType dtype) {
  const double wide = error + std::fabs(value) * 0x1p-52;
  const double low = exact::narrow(value - wide, dtype);
  const double high = exact::narrow(value + wide, dtype);
  if (!(low == high) || std::isnan(value) || std::isinf(value) || std::isinf(wide)) return std::nullopt;
  return static_cast<float>(low);
}

OpenElements::OpenElements(std::int64_t dim) : list_(static_cast<std::size_t>(kernels::padded(dim))) {}

void OpenElements::gather(const float* row, std::int64_t opened, float* to) const {
  for (std::int64_t k = 0; k < opened; ++k) to[k] = row[(*this)[k]];
}

Row::Row(std::int64_t dim)
    : values_(static_cast<std::size_t>(kernels::padded(dim))),
      errors_(values_.size()),
      rounded_(values_.size()),
      open_(values_.size()),
      short_(values_.size()) {}

std::int64_t Row::finish(const kernels::ForwardLoops* loops, std::int64_t count, DType dtype, void* to,
                         const std::function<float(std::int64_t)>& settle) {
  std::int64_t settled = 0;
  if (loops == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) {
      base::go_on_or_throw();
      rounded_[static_cast<std::size_t>(i)] = settle(i);
    }
    settled = count;
  } else {
    const std::int64_t opened = loops->round(values(), errors(), count, dtype, rounded_.data(), open_.data());
    for (std::int64_t k = 0; k < opened; ++k) {
      const auto i = static_cast<std::size_t>(open_[static_cast<std::size_t>(k)]);
      // Numbers that the loop does not round, very small ones for instance, may well be proven.
      if (const auto rounded = proven(values_[i], errors_[i], dtype)) {
        rounded_[i] = *rounded;
      } else {
        base::go_on_or_throw();
        rounded_[i] = settle(static_cast<std::int64_t>(i));
        ++settled;
      }
    }
  }
  exact::narrow_row(rounded_.data(), dtype, count, to);
  return settled;
}

std::int64_t Row::finish_open(const kernels::ForwardLoops* loops, const OpenElements& open, std::int64_t opened,
                              void* to, const std::function<float(std::int64_t)>& settle) {
  const std::int64_t settled =
      finish(loops, opened, DType::bf16, short_.data(), [&](std::int64_t k) { return settle(open[k]); });
  for (std::int64_t k = 0; k < opened; ++k) {
    std::memcpy(static_cast<char*>(to) + 2 * open[k], &short_[static_cast<std::size_t>(k)], 2);
  }
  return settled;
}

void Row::store(const kernels::ForwardLoops& loops, std::int64_t count, DType dtype, void* to) {
  std::fill(errors_.begin(), errors_.end(), 0.0);
  finish(&loops, count, dtype, to, [&](std::int64_t i) {
    return static_cast<float>(exact::narrow(values_[static_cast<std::size_t>(i)], dtype));
  });
}

void store_sums(const std::vector<double>& terms, std::int64_t dim, DType dtype, void* to) {
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  for (std::int64_t i = 0; i < dim; ++i) {
    double sum = 0;
    for (std::size_t at = static_cast<std::size_t>(i); at < terms.size(); at += static_cast<std::size_t>(dim))
      sum += terms[at];
    exact::store_element(static_cast<char*>(to) + i * size, dtype, exact::narrow(sum, dtype));
  }
}

Result<Setting> setting_of(const Options& options) {
  if (auto checked = tiles::validate_threads(options.threads); !checked) return tl::unexpected(checked.error());
  const auto target = kernels::choose(options.kernel, Arithmetic::exact);
  if (!target) return tl::unexpected(target.error());
  const int threads = options.threads > 0 ? options.threads : base::available_threads();
  return Setting{*target, (*target)->forward_loops(), threads, options.progress};
}

Result<Setting> setting_with_loops(const Options& options) {
  auto setting = setting_of(options);
  if (!setting || setting->loops != nullptr) return setting;
  const auto portable = kernels::choose("portable", Arithmetic::exact);
  if (!portable) return tl::unexpected(portable.error());
  setting->loops = (*portable)->forward_loops();
  return setting;
}

Result<Report> run(const Setting& setting, std::int64_t rows, std::int64_t rows_a_piece, const Piece& piece) {
  std::atomic<std::int64_t> settled = 0;
  const std::int64_t pieces = (rows + rows_a_piece - 1) / rows_a_piece;
  const auto threads = static_cast<int>(std::clamp<std::int64_t>(pieces, 1, setting.threads));
  const bool finished = base::parallel_for(
      threads, pieces,
      [&](int worker, std::int64_t i) {
        settled += piece(worker, i * rows_a_piece, std::min(rows, (i + 1) * rows_a_piece));
      },
      setting.progress);
  if (!finished) return fail(StatusCode::cancelled, "cancelled by the progress callback");
  return Report{std::string(setting.target->name()), setting.threads, base::available_processors(), settled};
}

}  // namespace isologit::detail::forward
