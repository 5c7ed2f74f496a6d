// The C interface: checks what C's types do not, and hands over to the C++ interface.

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include "base/text.hpp"
#include "capi/structs.hpp"
#include "isologit/isologit.h"
#include "isologit/kernels.hpp"
#include "isologit/score.hpp"
#include "isologit/version.hpp"

namespace isologit {
namespace {

template <class Enum>
constexpr int value(Enum e) {
  return static_cast<int>(e);
}
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
static_assert(ISOLOGIT_EXACT == value(Arithmetic::exact) && ISOLOGIT_FAST == value(Arithmetic::fast));

Result<DType> to_dtype(std::int32_t dtype, const char* name) {
  if (dtype >= ISOLOGIT_BF16 && dtype <= ISOLOGIT_F32) return static_cast<DType>(dtype);
  return fail(StatusCode::invalid_argument,
              base::concat(name, ": dtype is ", dtype, "; expected ", value(ISOLOGIT_BF16), " (bf16), ",
                           value(ISOLOGIT_F16), " (f16) or ", value(ISOLOGIT_F32), " (f32)"));
}

Result<MatrixView> to_view(const isologit_matrix& matrix, const char* name) {
  const auto dtype = to_dtype(matrix.dtype, name);
  if (!dtype) return tl::unexpected(dtype.error());
  return MatrixView{matrix.data, *dtype, matrix.rows, matrix.cols, matrix.row_stride};
}

Result<Head> to_head(const isologit_head* from) {
  const auto c = capi::read(from, "head");
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
  return Head{.weight = *weight,
              .bias = {c->bias.data, *bias_dtype, c->bias.size},
              .vocab_size = c->vocab_size,
              .transforms = {c->has_softcap != 0, c->softcap, static_cast<ScaleKind>(c->scale_kind), c->scale}};
}

// offsets[N] tells how many ids there are.
IdLists to_lists(const isologit_id_lists& c, std::int64_t rows) {
  if (c.offsets == nullptr) return {};
  const auto last = std::max<std::int64_t>(c.offsets[rows], 0);
  return {{c.offsets, static_cast<std::size_t>(rows) + 1},
          {c.ids, c.ids == nullptr ? 0 : static_cast<std::size_t>(last)}};
}

Result<void> add_selection(const isologit_score_request& c, ScoreRequest& request) {
  const std::int64_t rows = std::max<std::int64_t>(request.hidden.rows, 0);
  if (c.row_mask != nullptr) request.row_mask = {c.row_mask, static_cast<std::size_t>(rows)};
  if (c.row_list != nullptr) {
    if (c.row_count < 0) {
      return fail(StatusCode::invalid_argument, base::concat("row_count: ", c.row_count, "; expected 0 or more"));
    }
    request.use_row_list = true;
    request.row_list = {c.row_list, static_cast<std::size_t>(c.row_count)};
  }
  if (c.has_range != 0) {
    if (c.last_id < 0) {
      return fail(StatusCode::invalid_argument, base::concat("last_id: ", c.last_id, "; expected 0 or more"));
    }
    request.support.first_id = c.first_id;
    request.support.last_id = c.last_id;
  }
  request.support.kept = to_lists(c.kept, rows);
  request.support.banned = to_lists(c.banned, rows);
  return {};
}

Result<void> add_ids_and_logits(const isologit_score_request& c, ScoreRequest& request) {
  const std::int64_t rows = std::max<std::int64_t>(request.hidden.rows, 0);
  constexpr std::int64_t kMostPerRow = std::int64_t{1} << 31;
  if (c.ids_per_row < 0 || c.ids_per_row > kMostPerRow) {
    return fail(StatusCode::invalid_argument, base::concat("ids_per_row: ", c.ids_per_row, "; expected 0 to 2^31"));
  }
  request.ids_per_row = c.ids_per_row;
  if (c.ids != nullptr) request.ids = {c.ids, static_cast<std::size_t>(rows * c.ids_per_row)};
  request.ids_logprobs = c.ids_logprobs;
  request.top_k = c.top_k;
  request.top_k_ids = c.top_k_ids;
  request.top_k_logprobs = c.top_k_logprobs;
  if (c.logits != nullptr) {
    const auto dtype = to_dtype(c.logits_dtype, "logits");
    if (!dtype) return tl::unexpected(dtype.error());
    request.logits = {c.logits, *dtype, c.logits_row_stride, c.logits_first_id, c.logits_count};
  }
  return {};
}

Result<ScoreRequest> to_request(const isologit_score_request* from) {
  const auto c = capi::read(from, "request");
  if (!c) return tl::unexpected(c.error());
  const auto hidden = to_view(c->hidden, "hidden");
  if (!hidden) return tl::unexpected(hidden.error());
  if (c->temperature_count < 0 || (c->temperature_count > 0 && c->temperatures == nullptr)) {
    return fail(StatusCode::invalid_argument,
                base::concat("temperatures: temperature_count is ", c->temperature_count, " and the pointer is ",
                             c->temperatures == nullptr ? "" : "not ",
                             "NULL; expected a count of 0, or of what the pointer points to"));
  }
  ScoreRequest request{.hidden = *hidden, .token_ids = {}, .temperatures = {}};
  if (c->token_ids != nullptr && hidden->rows > 0) {
    request.token_ids = {c->token_ids, static_cast<std::size_t>(hidden->rows)};
  }
  if (c->temperature_count > 0) {
    request.temperatures = {c->temperatures, static_cast<std::size_t>(c->temperature_count)};
  }
  if (c->has_ignore_index != 0) request.ignore_index = c->ignore_index;
  request.logprobs = c->logprobs;
  request.lse = c->lse;
  request.entropy = c->entropy;
  request.argmax = c->argmax;
  request.rank = c->rank;
  request.raw_logprobs = c->raw_logprobs;
  request.sum_p2 = c->sum_p2;
  request.log_kept = c->log_kept;
  if (auto added = add_selection(*c, request); !added) return tl::unexpected(added.error());
  if (auto added = add_ids_and_logits(*c, request); !added) return tl::unexpected(added.error());
  return request;
}

Result<ScoreOptions> to_options(const isologit_score_options* from) {
  if (from == nullptr) return ScoreOptions{};
  const auto c = capi::read(from, "options");
  if (!c) return tl::unexpected(c.error());
  if (c->arithmetic != ISOLOGIT_EXACT && c->arithmetic != ISOLOGIT_FAST) {
    return fail(StatusCode::invalid_argument,
                base::concat("arithmetic: ", c->arithmetic, "; expected ", value(ISOLOGIT_EXACT), " (exact) or ",
                             value(ISOLOGIT_FAST), " (fast)"));
  }
  ScoreOptions options;
  options.threads = c->threads;
  if (c->kernel != nullptr) options.kernel = c->kernel;
  options.arithmetic = static_cast<Arithmetic>(c->arithmetic);
  if (c->progress != nullptr) {
    options.progress = [call = c->progress, user = c->user](double share) { return call(user, share) != 0; };
  }
  return options;
}

template <std::size_t Size>
void copy_text(std::string_view from, char (&to)[Size]) {
  const std::size_t length = std::min(from.size(), Size - 1);
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

Result<void> score_structs(const isologit_head* c_head, const isologit_score_request* c_request,
                           const isologit_score_options* c_options, isologit_score_report* c_report) {
  const auto head = to_head(c_head);
  if (!head) return tl::unexpected(head.error());
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (c_report != nullptr && !capi::writable(c_report)) {
    return fail(StatusCode::invalid_argument,
                base::concat("report: struct_size is too small; expected sizeof the structure, at least ",
                             sizeof(isologit_score_report)));
  }
  const auto report = score(*head, *request, *options);
  if (!report) return tl::unexpected(report.error());
  if (c_report != nullptr) {
    isologit_score_report filled{};
    copy_text(report->kernel, filled.kernel);
    filled.threads = report->threads;
    filled.rounds = report->rounds;
    filled.rows = report->rows;
    filled.logit_fallbacks = report->logit_fallbacks;
    filled.undecided_rows = report->undecided_rows;
    filled.arithmetic = value(report->arithmetic);
    capi::write(filled, c_report);
  }
  return {};
}

// Runs body, which returns a Result<void>; nothing thrown gets past it.
template <class Body>
isologit_status guarded(char* message, std::size_t message_size, Body&& body) {
  const auto tell = [&](std::string_view text) {
    if (message == nullptr || message_size == 0) return;
    const std::size_t length = std::min(text.size(), message_size - 1);
    if (length > 0) std::memcpy(message, text.data(), length);
    message[length] = '\0';
  };
  try {
    const Result<void> result = body();
    tell(result ? std::string_view() : std::string_view(result.error().message));
    return result ? ISOLOGIT_OK : static_cast<isologit_status>(result.error().code);
  } catch (const std::exception&) {  // the library throws nothing but std::bad_alloc and its kin
    tell("out of memory");
    return ISOLOGIT_OUT_OF_MEMORY;
  }
}

}  // namespace
}  // namespace isologit

extern "C" {

const char* isologit_version(void) { return ISOLOGIT_VERSION; }

isologit_status isologit_score(const isologit_head* head, const isologit_score_request* request,
                               const isologit_score_options* options, isologit_score_report* report, char* message,
                               size_t message_size) {
  return isologit::guarded(message, message_size,
                           [&] { return isologit::score_structs(head, request, options, report); });
}

int isologit_kernel_count(void) {
  try {
    return static_cast<int>(isologit::kernels().size());
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

isologit_status isologit_kernel(int index, isologit_kernel_info* info) {
  return isologit::guarded(nullptr, 0, [&]() -> isologit::Result<void> {
    const auto list = isologit::kernels();
    if (!isologit::capi::writable(info) || index < 0 || static_cast<std::size_t>(index) >= list.size()) {
      return isologit::fail(isologit::StatusCode::invalid_argument, "");
    }
    const isologit::KernelInfo& kernel = list[static_cast<std::size_t>(index)];
    isologit_kernel_info filled{};
    isologit::copy_text(kernel.name, filled.name);
    isologit::copy_text(kernel.instruction_set, filled.instruction_set);
    isologit::copy_text(arithmetic_name(kernel.arithmetic), filled.arithmetic);
    isologit::copy_text(kernel.why_not, filled.why_not);
    for (isologit::DType dtype : kernel.dtypes) filled.dtypes |= 1U << isologit::value(dtype);
    filled.runnable = kernel.runnable ? 1 : 0;
    filled.chosen = kernel.chosen ? 1 : 0;
    isologit::capi::write(filled, info);
    return {};
  });
}

}  // extern "C"
