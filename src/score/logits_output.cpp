#include "score/logits_output.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "exact/element.hpp"
#include "exact/elementary.hpp"
#include "exact/encode.hpp"
#include "exact/encoded.hpp"
#include "exact/logit.hpp"
#include "tiles/transforms.hpp"

namespace isologit::detail::score {
namespace {

// z / divisor rounded once, by way of rounding it to odd in f64 (Boldo and Melquiond, "Emulation of FMA and correctly
// rounded sums: proved algorithms using rounding to odd", 2008), which leaves a later rounding to fewer bits correct.
double divide(float z, float divisor, DType dtype) {
  const double quotient = static_cast<double>(z) / static_cast<double>(divisor);
  const double residual = std::fma(-quotient, static_cast<double>(divisor), static_cast<double>(z));
  if (residual == 0 || (std::bit_cast<std::uint64_t>(quotient) & 1U) != 0) return exact::narrow(quotient, dtype);
  const double toward = residual > 0 ? HUGE_VAL : -HUGE_VAL;  // the divisor is positive
  return exact::narrow(std::nextafter(quotient, toward), dtype);
}

// The logit of the shard's id before any transform, rounded to `dtype`; of fast ones what the softcap is given.
double dot_of(std::int64_t id, std::int64_t row, const LogitSource& source, DType dtype) {
  if (source.fast != nullptr) {
    return exact::narrow(static_cast<double>(source.fast->logit(row, id).uncapped), dtype);
  }
  const Head& head = source.shard.head;
  const MatrixView& weight = head.weight;
  const void* hidden = exact::row_data(source.hidden, row);
  const float bias = head.bias.data == nullptr ? 0.0F : exact::load_element(head.bias.data, head.bias.dtype, id);
  const exact::Format& format = exact::format_of(dtype);
  const bool encoded = head.encoded.encoding != Encoding::none;
  if (!encoded && head.lora.a.rows == 0) {
    return exact::logit(hidden, source.hidden.dtype, exact::row_data(weight, id), weight.dtype, weight.cols, bias,
                        format);
  }
  const auto factors = exact::low_rank_factors(head.lora, hidden, source.hidden.dtype);
  exact::LowRankTerms low_rank;
  if (!factors.empty()) low_rank = {factors, exact::row_data(head.lora.b, id), head.lora.b.dtype};
  if (!encoded) {
    return exact::logit(hidden, source.hidden.dtype, exact::row_data(weight, id), weight.dtype, weight.cols, bias,
                        low_rank, format);
  }
  std::vector<double> numbers(static_cast<std::size_t>(weight.cols));
  exact::decode_row(head, id, numbers.data());
  return exact::wide_logit(hidden, source.hidden.dtype, numbers.data(), weight.cols, bias, low_rank, format);
}

enum class Step : std::uint8_t { softcap, scale, temperature };

double apply(Step step, float z, const Transforms& transforms, float temperature, DType dtype) {
  if (step == Step::softcap) return exact::softcap(z, transforms.softcap, exact::format_of(dtype));
  if (step == Step::temperature) return divide(z, temperature, dtype);
  if (transforms.scale_kind == ScaleKind::divide) return divide(z, transforms.scale, dtype);
  return exact::narrow(static_cast<double>(z) * static_cast<double>(transforms.scale), dtype);  // exact product
}

// The row's logit of `id` with its last step rounded to `dtype` instead of f32. A step that changes nothing (a factor,
// a divisor or a temperature of 1) is none.
double last_step(std::int64_t id, const LogitRow& row, const LogitSource& source, DType dtype) {
  const Transforms& transforms = source.shard.head.transforms;
  const bool scaled = transforms.scale_kind != ScaleKind::none && transforms.scale != 1;
  const bool scale_first = tiles::scales_before_softcap(transforms);
  std::array<Step, 3> steps{};
  std::size_t count = 0;
  if (scaled && scale_first && source.fast == nullptr) steps[count++] = Step::scale;  // fast logits come scaled
  if (transforms.has_softcap) steps[count++] = Step::softcap;
  if (scaled && !scale_first) steps[count++] = Step::scale;
  if (row.temperature != 1) steps[count++] = Step::temperature;
  double z = dot_of(id - source.shard.first_id, row.row, source, count == 0 ? dtype : DType::f32);
  for (std::size_t i = 0; i < count; ++i) {
    z = apply(steps[i], static_cast<float>(z), transforms, row.temperature, i + 1 == count ? dtype : DType::f32);
  }
  return z;
}

// Whether RN32 of a number lies on a midpoint between two numbers of `dtype`, or where f16 has fewer bits than a normal
// f32 tells: off these, the f32 rounding and what it rounded lie on the same side of every midpoint.
bool on_midpoint(float logit, DType dtype) {
  const auto bits = std::bit_cast<std::uint32_t>(logit);
  if (dtype == DType::bf16) return (bits & 0xFFFFU) == 0x8000U;
  if (std::isinf(logit) || logit == 0) return false;
  return std::fabs(logit) < 0x1p-14F || (bits & 0x1FFFU) == 0x1000U;
}

}  // namespace

void write_logits(const LogitsOutput& output, const LogitRow& row, const LogitSource& source) {
  const std::int64_t begin = std::max(row.first_id, output.first_id);
  const std::int64_t end = std::min(row.first_id + row.count, output.first_id + output.count);
  const auto size = static_cast<std::int64_t>(dtype_size(output.dtype));
  char* to = static_cast<char*>(output.data) + row.row * output.row_stride * size;
  if (output.dtype == DType::f32) {
    for (std::int64_t id = begin; id < end; ++id) {
      const float logit = row.logits[id - row.first_id];
      const float value = std::isnan(logit) ? exact::quiet_nan() : logit;
      std::memcpy(to + (id - output.first_id) * size, &value, sizeof value);
    }
    return;
  }
  for (std::int64_t id = begin; id < end; ++id) {
    const float logit = row.logits[id - row.first_id];
    double value = static_cast<double>(std::isnan(logit) ? exact::quiet_nan() : logit);
    if (!std::isnan(logit)) {
      value = on_midpoint(logit, output.dtype) ? last_step(id, row, source, output.dtype)
                                               : exact::narrow(value, output.dtype);
    }
    exact::store_element(to + (id - output.first_id) * size, output.dtype, value);
  }
}

void write_zeros(const LogitsOutput& output, std::int64_t row) {
  const auto size = static_cast<std::int64_t>(dtype_size(output.dtype));
  std::memset(static_cast<char*>(output.data) + row * output.row_stride * size, 0,
              static_cast<std::size_t>(output.count * size));
}

}  // namespace isologit::detail::score
