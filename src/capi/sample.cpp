// isologit_sample and isologit_sample_logits.

#include "isologit/sample.hpp"

#include "capi/convert.hpp"
#include "isologit/given_logits.hpp"

namespace isologit::detail::capi {
namespace {

// One value for all rows or one a row: as many as `count` says.
template <class T>
Result<void> add_values(const T* values, std::int64_t count, const char* name, std::span<const T>& to) {
  if (count < 0 || (count > 0 && values == nullptr)) {
    return fail(StatusCode::invalid_argument,
                base::concat(name, ": the count is ", count, " and the pointer is ", values == nullptr ? "" : "not ",
                             "NULL; expected a count of 0, or of what the pointer points to"));
  }
  to = {values, static_cast<std::size_t>(count)};
  return {};
}

template <class Struct, class Request>
Result<void> add_parameters(const Struct& c, Request& request) {
  for (const Result<void>& added :
       {add_values(c.temperatures, c.temperature_count, "temperatures", request.temperatures),
        add_values(c.seeds, c.seed_count, "seeds", request.seeds),
        add_values(c.sequence_ids, c.sequence_id_count, "sequence_ids", request.sequence_ids),
        add_values(c.positions, c.position_count, "positions", request.positions),
        add_values(c.min_p, c.min_p_count, "min_p", request.min_p),
        add_values(c.top_k, c.top_k_count, "top_k", request.top_k),
        add_values(c.top_p, c.top_p_count, "top_p", request.top_p)}) {
    if (!added) return added;
  }
  request.ids = c.ids;
  request.logprobs = c.logprobs;
  request.cut_logprobs = c.cut_logprobs;
  request.log_kept_cut = c.log_kept_cut;
  return {};
}

Result<SampleRequest> to_request(const isologit_sample_request* from) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  const auto hidden = to_rows(c->hidden, "hidden");
  if (!hidden) return tl::unexpected(hidden.error());
  SampleRequest request;
  request.hidden = *hidden;
  if (auto added = add_parameters(*c, request); !added) return tl::unexpected(added.error());
  if (auto added = add_selection(*c, request); !added) return tl::unexpected(added.error());
  return request;
}

Result<GivenLogitsSampleRequest> to_request(const isologit_logits_sample_request* from) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  const auto logits = to_rows(c->logits, "logits");
  if (!logits) return tl::unexpected(logits.error());
  GivenLogitsSampleRequest request;
  request.logits = *logits;
  if (auto added = add_parameters(*c, request); !added) return tl::unexpected(added.error());
  request.cut_mask = c->cut_mask;
  return request;
}

void write_report(const SampleReport& report, isologit_sample_report* c_report) {
  if (c_report == nullptr) return;
  isologit_sample_report filled{};
  copy_text(report.kernel, filled.kernel);
  filled.threads = report.threads;
  filled.rounds = report.rounds;
  filled.rows = report.rows;
  filled.logit_fallbacks = report.logit_fallbacks;
  filled.further_rows = report.further_rows;
  filled.undecided_rows = report.undecided_rows;
  filled.second_words = report.second_words;
  filled.exact_draws = report.exact_draws;
  filled.arithmetic = value(report.arithmetic);
  filled.processors = report.processors;
  write(filled, c_report);
}

// `run` is sample or sample_given.
template <class Run>
Result<void> sample_structs(const isologit_head* c_head, const isologit_sample_request* c_request,
                            const isologit_score_options* c_options, isologit_sample_report* c_report, Run run) {
  const auto head = to_head(c_head);
  if (!head) return tl::unexpected(head.error());
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (auto checked = check_report(c_report); !checked) return checked;
  const auto report = run(*head, *request, *options);
  if (!report) return tl::unexpected(report.error());
  write_report(*report, c_report);
  return {};
}

Result<void> sample_structs(const isologit_logits_sample_request* c_request, const isologit_score_options* c_options,
                            isologit_sample_report* c_report) {
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (auto checked = check_report(c_report); !checked) return checked;
  const auto report = sample_logits(*request, *options);
  if (!report) return tl::unexpected(report.error());
  write_report(*report, c_report);
  return {};
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" isologit_status isologit_sample(const isologit_head* head, const isologit_sample_request* request,
                                           const isologit_score_options* options, isologit_sample_report* report,
                                           char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::sample_structs(head, request, options, report, isologit::sample);
  });
}

extern "C" isologit_status isologit_sample_given(const isologit_head* head, const isologit_sample_request* request,
                                                 const isologit_score_options* options, isologit_sample_report* report,
                                                 char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::sample_structs(head, request, options, report, isologit::sample_given);
  });
}

extern "C" isologit_status isologit_sample_logits(const isologit_logits_sample_request* request,
                                                  const isologit_score_options* options, isologit_sample_report* report,
                                                  char* message, size_t message_size) {
  return isologit::detail::capi::guarded(
      message, message_size, [&] { return isologit::detail::capi::sample_structs(request, options, report); });
}
