#include "capi/convert.hpp"

#include <functional>

#include "base/processors.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::capi {

static_assert(ISOLOGIT_OK == value(StatusCode::ok) &&
              ISOLOGIT_INVALID_ARGUMENT == value(StatusCode::invalid_argument) &&
              ISOLOGIT_UNSUPPORTED == value(StatusCode::unsupported) &&
              ISOLOGIT_NOT_FOUND == value(StatusCode::not_found) && ISOLOGIT_IO_ERROR == value(StatusCode::io_error) &&
              ISOLOGIT_OUT_OF_MEMORY == value(StatusCode::out_of_memory) &&
              ISOLOGIT_CANCELLED == value(StatusCode::cancelled));
static_assert(ISOLOGIT_BF16 == value(DType::bf16) && ISOLOGIT_F16 == value(DType::f16) &&
              ISOLOGIT_F32 == value(DType::f32));
static_assert(ISOLOGIT_SCALE_NONE == value(ScaleKind::none) && ISOLOGIT_SCALE_MULTIPLY == value(ScaleKind::multiply) &&
              ISOLOGIT_SCALE_DIVIDE == value(ScaleKind::divide));
static_assert(ISOLOGIT_SOFTCAP_FIRST == value(TransformOrder::softcap_first) &&
              ISOLOGIT_SCALE_FIRST == value(TransformOrder::scale_first));
static_assert(ISOLOGIT_F64 == value(Encoding::f64) && ISOLOGIT_F8_E4M3 == value(Encoding::f8_e4m3) &&
              ISOLOGIT_F8_E5M2 == value(Encoding::f8_e5m2));
static_assert(ISOLOGIT_F8_REAL == value(F8Product::real) && ISOLOGIT_F8_BF16 == value(F8Product::bf16));
static_assert(ISOLOGIT_EXACT == value(Arithmetic::exact) && ISOLOGIT_FAST == value(Arithmetic::fast));

Result<DType> to_dtype(std::int32_t dtype, const char* name) {
  if (dtype >= ISOLOGIT_BF16 && dtype <= ISOLOGIT_F32) return static_cast<DType>(dtype);
  return fail(StatusCode::invalid_argument,
              base::concat(name, ": dtype is ", dtype, "; expected ", value(ISOLOGIT_BF16), " (bf16), ",
                           value(ISOLOGIT_F16), " (f16) or ", value(ISOLOGIT_F32), " (f32)"));
}

Result<Arithmetic> to_arithmetic(std::int32_t arithmetic, const char* name) {
  if (arithmetic == ISOLOGIT_EXACT || arithmetic == ISOLOGIT_FAST) return static_cast<Arithmetic>(arithmetic);
  return fail(StatusCode::invalid_argument, base::concat(name, ": ", arithmetic, "; expected ", value(ISOLOGIT_EXACT),
                                                         " (exact) or ", value(ISOLOGIT_FAST), " (fast)"));
}

Result<MatrixView> to_view(const isologit_matrix& matrix, const char* name) {
  const auto dtype = to_dtype(matrix.dtype, name);
  if (!dtype) return tl::unexpected(dtype.error());
  return MatrixView{matrix.data, *dtype, matrix.rows, matrix.cols, matrix.row_stride};
}

Result<MatrixView> to_rows(const isologit_matrix& matrix, const char* name) {
  auto view = to_view(matrix, name);
  if (!view) return view;
  if (auto checked = tiles::validate_matrix(name, *view); !checked) return tl::unexpected(checked.error());
  return view;
}

namespace {

Result<EncodedWeight> to_encoded(const isologit_head& c) {
  if (c.encoding < 0 || c.encoding > ISOLOGIT_F8_E5M2) {
    return fail(StatusCode::invalid_argument,
                base::concat("encoding: ", c.encoding, "; expected 0 (none), ", value(ISOLOGIT_F64), " (f64), ",
                             value(ISOLOGIT_F8_E4M3), " (f8_e4m3) or ", value(ISOLOGIT_F8_E5M2), " (f8_e5m2)"));
  }
  if (c.f8_product != ISOLOGIT_F8_REAL && c.f8_product != ISOLOGIT_F8_BF16) {
    return fail(StatusCode::invalid_argument,
                base::concat("f8_product: ", c.f8_product, "; expected ", value(ISOLOGIT_F8_REAL), " (real) or ",
                             value(ISOLOGIT_F8_BF16), " (bf16)"));
  }
  const auto scales = to_view(c.f8_scales, "f8_scales");
  if (!scales) return tl::unexpected(scales.error());
  return EncodedWeight{static_cast<Encoding>(c.encoding),
                       c.encoded,
                       {*scales, c.f8_block_rows, c.f8_block_cols, c.f8_first_row},
                       static_cast<F8Product>(c.f8_product)};
}

}  // namespace

Result<Head> to_head(const isologit_head* from) {
  const auto c = read(from, "head");
  if (!c) return tl::unexpected(c.error());
  const auto weight = to_view(c->weight, "weight");
  if (!weight) return tl::unexpected(weight.error());
  const auto bias_dtype = to_dtype(c->bias.dtype, "bias");
  if (!bias_dtype) return tl::unexpected(bias_dtype.error());
  if (c->scale_kind < ISOLOGIT_SCALE_NONE || c->scale_kind > ISOLOGIT_SCALE_DIVIDE) {
    return fail(
        StatusCode::invalid_argument,
        base::concat("scale_kind: ", c->scale_kind, "; expected ", value(ISOLOGIT_SCALE_NONE), " (none), ",
                     value(ISOLOGIT_SCALE_MULTIPLY), " (multiply) or ", value(ISOLOGIT_SCALE_DIVIDE), " (divide)"));
  }
  if (c->transform_order != ISOLOGIT_SOFTCAP_FIRST && c->transform_order != ISOLOGIT_SCALE_FIRST) {
    return fail(StatusCode::invalid_argument,
                base::concat("transform_order: ", c->transform_order, "; expected ", value(ISOLOGIT_SOFTCAP_FIRST),
                             " (softcap first) or ", value(ISOLOGIT_SCALE_FIRST), " (scale first)"));
  }
  const auto a = to_view(c->lora.a, "lora a");
  if (!a) return tl::unexpected(a.error());
  const auto b = to_view(c->lora.b, "lora b");
  if (!b) return tl::unexpected(b.error());
  const auto encoded = to_encoded(*c);
  if (!encoded) return tl::unexpected(encoded.error());
  return Head{.weight = *weight,
              .bias = {c->bias.data, *bias_dtype, c->bias.size},
              .vocab_size = c->vocab_size,
              .transforms = {c->has_softcap != 0, c->softcap, static_cast<ScaleKind>(c->scale_kind), c->scale,
                             static_cast<TransformOrder>(c->transform_order)},
              .encoded = *encoded,
              .lora = {*a, *b, c->lora.scale}};
}

Result<std::span<const float>> to_temperatures(const float* temperatures, std::int64_t count) {
  if (count < 0 || (count > 0 && temperatures == nullptr)) {
    return fail(StatusCode::invalid_argument,
                base::concat("temperatures: temperature_count is ", count, " and the pointer is ",
                             temperatures == nullptr ? "" : "not ",
                             "NULL; expected a count of 0, or of what the pointer points to"));
  }
  return std::span<const float>(temperatures, static_cast<std::size_t>(count));
}

Result<std::span<const std::int64_t>> to_ids(const std::int64_t* ids, std::int64_t rows, std::int64_t per_row) {
  if (auto checked = tiles::validate_per_row("ids_per_row", per_row, rows); !checked) {
    return tl::unexpected(checked.error());
  }
  if (ids == nullptr) return std::span<const std::int64_t>();
  return std::span<const std::int64_t>(ids, static_cast<std::size_t>(rows * per_row));
}

Result<std::optional<std::vector<int>>> to_processors(const std::int32_t* processors, std::int64_t count) {
  if (processors == nullptr && count == 0) return std::nullopt;
  if (processors == nullptr || count < 0 || count > base::ProcessorSet::kMost) {
    return fail(StatusCode::invalid_argument,
                base::concat("processors: processor_count is ", count, " and the pointer is ",
                             processors == nullptr ? "" : "not ", "NULL; expected NULL and 0, or 1 to ",
                             base::ProcessorSet::kMost, " numbers"));
  }
  return std::vector<int>(processors, processors + count);
}

IdLists to_lists(const isologit_id_lists& c, std::int64_t rows) {
  if (c.offsets == nullptr) return {};
  const auto last = std::max<std::int64_t>(c.offsets[rows], 0);
  return {{c.offsets, static_cast<std::size_t>(rows) + 1},
          {c.ids, c.ids == nullptr ? 0 : static_cast<std::size_t>(last)}};
}

// What `call` says of all parties' bytes: where they lie and how many each one has.
bool take_all(std::size_t count, const std::function<int(const void**, std::size_t*)>& call,
              std::vector<std::vector<std::byte>>& all) {
  const void* bytes = nullptr;
  std::vector<std::size_t> sizes(count);
  if (call(&bytes, sizes.data()) == 0) return false;
  const auto* next = static_cast<const std::byte*>(bytes);
  for (const std::size_t size : sizes) {
    all.emplace_back(next, next + size);
    next += size;
  }
  return true;
}

OwnRows to_own_rows(const isologit_peers& c) {
  const auto scatter = [call = c.scatter, user = c.user](std::span<const std::vector<std::byte>> own,
                                                         std::vector<std::vector<std::byte>>& all) {
    std::vector<std::byte> bytes;
    std::vector<std::size_t> sizes;
    for (const std::vector<std::byte>& one : own) {
      bytes.insert(bytes.end(), one.begin(), one.end());
      sizes.push_back(one.size());
    }
    const auto hand_on = [&](const void** to_all, std::size_t* all_sizes) {
      return call(user, bytes.data(), sizes.data(), to_all, all_sizes);
    };
    return take_all(own.size(), hand_on, all);
  };
  return {c.party, c.first_row, c.last_row, scatter};
}

Result<std::optional<Peers>> to_peers(const isologit_peers* from) {
  if (from == nullptr) return std::nullopt;
  const auto c = read(from, "peers");
  if (!c) return tl::unexpected(c.error());
  constexpr std::int32_t kMostParties = 1 << 20;
  if (c->count < 1 || c->count > kMostParties || c->gather == nullptr) {
    return fail(StatusCode::invalid_argument,
                base::concat("peers: count is ", c->count, " and gather is ", c->gather == nullptr ? "" : "not ",
                             "NULL; expected 1 to ", kMostParties, " and a function"));
  }
  const auto gather = [call = c->gather, user = c->user, count = static_cast<std::size_t>(c->count)](
                          std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) {
    const auto hand_on = [&](const void** to_all, std::size_t* sizes) {
      return call(user, own.data(), own.size(), to_all, sizes);
    };
    return take_all(count, hand_on, all);
  };
  Peers peers{c->first_id, c->vocab_size, gather};
  if (c->scatter != nullptr) peers.own_rows = to_own_rows(*c);
  return peers;
}

Result<ScoreOptions> to_options(const isologit_score_options* from) {
  if (from == nullptr) return ScoreOptions{};
  const auto c = read(from, "options");
  if (!c) return tl::unexpected(c.error());
  auto options = to_common_options<ScoreOptions>(*c);
  if (!options) return options;
  const auto arithmetic = to_arithmetic(c->arithmetic, "arithmetic");
  if (!arithmetic) return tl::unexpected(arithmetic.error());
  options->arithmetic = *arithmetic;
  return options;
}

Result<BackwardOptions> to_options(const isologit_backward_options* from) {
  if (from == nullptr) return BackwardOptions{};
  const auto c = read(from, "options");
  if (!c) return tl::unexpected(c.error());
  auto options = to_common_options<BackwardOptions>(*c);
  if (!options) return options;
  if (c->has_arithmetic != 0) {
    const auto arithmetic = to_arithmetic(c->arithmetic, "arithmetic");
    if (!arithmetic) return tl::unexpected(arithmetic.error());
    options->arithmetic = *arithmetic;
  }
  const auto logits = to_arithmetic(c->logits_arithmetic, "logits_arithmetic");
  if (!logits) return tl::unexpected(logits.error());
  options->logits = *logits;
  return options;
}

Result<void> write_report(const BackwardReport& report, isologit_backward_report* to) {
  if (to == nullptr) return {};
  isologit_backward_report filled{};
  copy_text(report.kernel, filled.kernel);
  filled.arithmetic = value(report.arithmetic);
  filled.threads = report.threads;
  filled.rows = report.rows;
  filled.logit_fallbacks = report.logit_fallbacks;
  filled.derivative_fallbacks = report.derivative_fallbacks;
  filled.sum_fallbacks = report.sum_fallbacks;
  filled.processors = report.processors;
  write(filled, to);
  return {};
}

}  // namespace isologit::detail::capi
