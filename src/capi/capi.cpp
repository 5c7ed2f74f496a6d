// The C interface: checks what C's types do not, and hands over to the C++ interface.

#include <new>

#include "base/thread_pool.hpp"
#include "capi/convert.hpp"
#include "isologit/given_logits.hpp"
#include "isologit/kernels.hpp"
#include "isologit/version.hpp"

namespace isologit::detail::capi {
namespace {

Result<void> add_ids_and_logits(const isologit_score_request& c, ScoreRequest& request) {
  const auto ids = to_ids(c.ids, request.hidden.rows, c.ids_per_row);
  if (!ids) return tl::unexpected(ids.error());
  request.ids = *ids;
  request.ids_per_row = c.ids_per_row;
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

}  // namespace

Result<ScoreRequest> to_request(const isologit_score_request* from) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  const auto hidden = to_rows(c->hidden, "hidden");
  if (!hidden) return tl::unexpected(hidden.error());
  const auto temperatures = to_temperatures(c->temperatures, c->temperature_count);
  if (!temperatures) return tl::unexpected(temperatures.error());
  ScoreRequest request{.hidden = *hidden, .token_ids = {}, .temperatures = *temperatures};
  if (c->token_ids != nullptr) {
    request.token_ids = {c->token_ids, static_cast<std::size_t>(hidden->rows)};
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
  request.mean_logits = c->mean_logits;
  request.summaries = reinterpret_cast<RowSummary*>(c->summaries);
  if (auto added = add_selection(*c, request); !added) return tl::unexpected(added.error());
  if (auto added = add_ids_and_logits(*c, request); !added) return tl::unexpected(added.error());
  return request;
}

Result<void> write_report(const ScoreReport& report, isologit_score_report* c_report) {
  if (c_report == nullptr) return {};
  if (auto checked = check_report(c_report); !checked) return checked;
  isologit_score_report filled{};
  copy_text(report.kernel, filled.kernel);
  filled.threads = report.threads;
  filled.rounds = report.rounds;
  filled.rows = report.rows;
  filled.logit_fallbacks = report.logit_fallbacks;
  filled.undecided_rows = report.undecided_rows;
  filled.arithmetic = value(report.arithmetic);
  filled.processors = report.processors;
  write(filled, c_report);
  return {};
}

namespace {

// `run` is score or score_given.
template <class Run>
Result<void> score_structs(const isologit_head* c_head, const isologit_score_request* c_request,
                           const isologit_score_options* c_options, isologit_score_report* c_report, Run run) {
  const auto head = to_head(c_head);
  if (!head) return tl::unexpected(head.error());
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (auto checked = check_report(c_report); !checked) return checked;
  const auto report = run(*head, *request, *options);
  if (!report) return tl::unexpected(report.error());
  return write_report(*report, c_report);
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" {

const char* isologit_version(void) { return ISOLOGIT_VERSION; }

void isologit_use_openmp(isologit_openmp parallel) { isologit::detail::base::use_openmp(parallel); }

isologit_status isologit_score(const isologit_head* head, const isologit_score_request* request,
                               const isologit_score_options* options, isologit_score_report* report, char* message,
                               size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::score_structs(head, request, options, report, isologit::score);
  });
}

isologit_status isologit_score_given(const isologit_head* head, const isologit_score_request* request,
                                     const isologit_score_options* options, isologit_score_report* report,
                                     char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::score_structs(head, request, options, report, isologit::score_given);
  });
}

int isologit_kernel_count(void) {
  try {
    return static_cast<int>(isologit::kernels().size());
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

isologit_status isologit_kernel(int index, isologit_kernel_info* info) {
  return isologit::detail::capi::guarded(nullptr, 0, [&]() -> isologit::Result<void> {
    const auto list = isologit::kernels();
    if (!isologit::detail::capi::writable(info) || index < 0 || static_cast<std::size_t>(index) >= list.size()) {
      return isologit::fail(isologit::StatusCode::invalid_argument, "");
    }
    const isologit::KernelInfo& kernel = list[static_cast<std::size_t>(index)];
    isologit_kernel_info filled{};
    isologit::detail::capi::copy_text(kernel.name, filled.name);
    isologit::detail::capi::copy_text(kernel.instruction_set, filled.instruction_set);
    isologit::detail::capi::copy_text(isologit::arithmetic_name(kernel.arithmetic), filled.arithmetic);
    isologit::detail::capi::copy_text(kernel.why_not, filled.why_not);
    for (isologit::DType dtype : kernel.dtypes) filled.dtypes |= 1U << isologit::detail::capi::value(dtype);
    filled.runnable = kernel.runnable ? 1 : 0;
    filled.chosen = kernel.chosen ? 1 : 0;
    isologit::detail::capi::write(filled, info);
    return {};
  });
}

}  // extern "C"
