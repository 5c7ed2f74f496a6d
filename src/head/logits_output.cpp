#include "head/logits_output.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "exact/bigfloat.hpp"
#include "exact/element.hpp"
#include "exact/elementary.hpp"
#include "exact/logit.hpp"

namespace isologit::head {
namespace {

double round_double(double x, const exact::Format& format) {
  return exact::round(exact::BigFloat::from_double(x), format);
}

// z / divisor rounded once, by way of rounding it to odd in f64 (Boldo and Melquiond, "Emulation of FMA and correctly
// rounded sums: proved algorithms using rounding to odd", 2008), which leaves a later rounding to fewer bits correct.
double divide(float z, float divisor, const exact::Format& format) {
  const double quotient = static_cast<double>(z) / static_cast<double>(divisor);
  const double residual = std::fma(-quotient, static_cast<double>(divisor), static_cast<double>(z));
  if (residual == 0 || (std::bit_cast<std::uint64_t>(quotient) & 1U) != 0) return round_double(quotient, format);
  const double toward = residual > 0 ? HUGE_VAL : -HUGE_VAL;  // the divisor is positive
  return round_double(std::nextafter(quotient, toward), format);
}

// The logit before any transform, rounded to `format`.
double dot_of(std::int64_t id, std::int64_t row, const LogitSource& source, const exact::Format& format) {
  if (source.fast != nullptr) return round_double(static_cast<double>(source.fast->logit(row, id)), format);
  const MatrixView& weight = source.head.weight;
  const VectorView& bias = source.head.bias;
  return exact::logit(exact::row_data(source.hidden, row), source.hidden.dtype, exact::row_data(weight, id),
                      weight.dtype, source.hidden.cols,
                      bias.data == nullptr ? 0.0F : exact::load_element(bias.data, bias.dtype, id), format);
}

// The row's logit of `id` with its last step rounded to `format` instead of f32. A step that changes nothing (a factor,
// a divisor or a temperature of 1) is none.
double last_step(std::int64_t id, const LogitRow& row, const LogitSource& source, const exact::Format& format) {
  const Transforms& transforms = source.head.transforms;
  const bool scaled = transforms.scale_kind != ScaleKind::none && transforms.scale != 1;
  const bool heated = row.temperature != 1;
  const bool dot_is_last = !transforms.has_softcap && !scaled && !heated;
  const double dot = dot_of(id - source.first_id, row.row, source, dot_is_last ? format : exact::kF32);
  if (dot_is_last) return dot;
  auto z = static_cast<float>(dot);
  if (transforms.has_softcap) {
    const bool last = !scaled && !heated;
    const double capped = exact::softcap(z, transforms.softcap, last ? format : exact::kF32);
    if (last) return capped;
    z = static_cast<float>(capped);
  }
  if (scaled && !heated) {
    if (transforms.scale_kind == ScaleKind::divide) return divide(z, transforms.scale, format);
    return round_double(static_cast<double>(z) * static_cast<double>(transforms.scale), format);  // exact product
  }
  if (transforms.scale_kind == ScaleKind::multiply) z = z * transforms.scale;
  if (transforms.scale_kind == ScaleKind::divide) z = z / transforms.scale;
  return divide(z, row.temperature, format);
}

std::uint16_t encode_bf16(double value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
}

// value is an f16 number.
std::uint16_t encode_f16(double value) {
  const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
  const double size = std::fabs(value);
  if (std::isinf(size)) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (size < 0x1p-14) return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(size * 0x1p24));
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(size));
  return static_cast<std::uint16_t>(sign | ((bits >> 13) - (112U << 10)));
}

std::uint16_t to_bf16(float logit, std::int64_t id, const LogitRow& row, const LogitSource& source) {
  if (std::isnan(logit)) return 0x7FC0;
  const auto bits = std::bit_cast<std::uint32_t>(logit);
  // Off the midpoints between two bf16 numbers, the f32 rounding and what it rounded lie on the same side.
  if ((bits & 0xFFFFU) == 0x8000U) return encode_bf16(last_step(id, row, source, exact::kBf16));
  if ((bits & 0x7FFFFFFFU) < 0x8000U) return 0;               // every zero is +0
  return static_cast<std::uint16_t>((bits + 0x8000U) >> 16);  // infinity stays: its low half is 0
}

std::uint16_t to_f16(float logit, std::int64_t id, const LogitRow& row, const LogitSource& source) {
  if (std::isnan(logit)) return 0x7E00;
  if (std::isinf(logit) || logit == 0) return encode_f16(static_cast<double>(logit));
  const auto bits = std::bit_cast<std::uint32_t>(logit);
  const bool normal = std::fabs(logit) >= 0x1p-14F;
  if (!normal || (bits & 0x1FFFU) == 0x1000U) return encode_f16(last_step(id, row, source, exact::kF16));
  return encode_f16(round_double(static_cast<double>(logit), exact::kF16));
}

}  // namespace

void write_logits(const LogitsOutput& output, const LogitRow& row, const LogitSource& source) {
  const std::int64_t begin = std::max(row.first_id, output.first_id);
  const std::int64_t end = std::min(row.first_id + row.count, output.first_id + output.count);
  const auto size = static_cast<std::int64_t>(dtype_size(output.dtype));
  char* to = static_cast<char*>(output.data) + row.row * output.row_stride * size;
  for (std::int64_t id = begin; id < end; ++id) {
    const float logit = row.logits[id - row.first_id];
    char* at = to + (id - output.first_id) * size;
    if (output.dtype == DType::f32) {
      const float value = std::isnan(logit) ? exact::quiet_nan() : logit;
      std::memcpy(at, &value, sizeof value);
    } else {
      const std::uint16_t narrow =
          output.dtype == DType::bf16 ? to_bf16(logit, id, row, source) : to_f16(logit, id, row, source);
      std::memcpy(at, &narrow, sizeof narrow);
    }
  }
}

void write_zeros(const LogitsOutput& output, std::int64_t row) {
  const auto size = static_cast<std::int64_t>(dtype_size(output.dtype));
  std::memset(static_cast<char*>(output.data) + row * output.row_stride * size, 0,
              static_cast<std::size_t>(output.count * size));
}

}  // namespace isologit::head
