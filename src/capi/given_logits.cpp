// isologit_score_logits and isologit_backward_logits.

#include "isologit/given_logits.hpp"

#include "capi/convert.hpp"

namespace isologit::detail::capi {
namespace {

// What both requests begin with.
template <class Request, class Struct>
Result<Request> to_inputs(const Struct& c) {
  const auto logits = to_rows(c.logits, "logits");
  if (!logits) return tl::unexpected(logits.error());
  const auto temperatures = to_temperatures(c.temperatures, c.temperature_count);
  if (!temperatures) return tl::unexpected(temperatures.error());
  Request request{.logits = *logits, .temperatures = *temperatures, .token_ids = {}};
  if (c.ids_per_row != 0) request.ids_per_row = c.ids_per_row;
  const auto ids = to_ids(c.token_ids, logits->rows, request.ids_per_row);
  if (!ids) return tl::unexpected(ids.error());
  request.token_ids = *ids;
  if (c.has_ignore_index != 0) request.ignore_index = c.ignore_index;
  return request;
}

Result<GivenLogitsRequest> to_request(const isologit_logits_request* from) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  auto request = to_inputs<GivenLogitsRequest>(*c);
  if (!request) return request;
  request->logprobs = c->logprobs;
  request->lse = c->lse;
  request->entropy = c->entropy;
  request->log_softmax = c->log_softmax;
  request->log_softmax_row_stride = c->log_softmax_row_stride;
  return request;
}

Result<GivenLogitsBackwardRequest> to_request(const isologit_logits_backward_request* from) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  auto request = to_inputs<GivenLogitsBackwardRequest>(*c);
  if (!request) return request;
  request->d_logprobs = c->d_logprobs;
  request->d_lse = c->d_lse;
  request->d_entropy = c->d_entropy;
  if (c->d_log_softmax != nullptr) {
    const MatrixView& logits = request->logits;
    request->d_log_softmax = {c->d_log_softmax, DType::f32, logits.rows, logits.cols, c->d_log_softmax_row_stride};
  }
  request->dlogits = c->dlogits;
  request->dlogits_row_stride = c->dlogits_row_stride;
  return request;
}

// `run` is score_logits or backward_logits.
template <class Request, class Options, class Report, class Run>
Result<void> run_structs(const Request* c_request, const Options* c_options, Report* c_report, Run run) {
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (auto checked = check_report(c_report); !checked) return checked;
  const auto report = run(*request, *options);
  if (!report) return tl::unexpected(report.error());
  return write_report(*report, c_report);
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" {

isologit_status isologit_score_logits(const isologit_logits_request* request, const isologit_score_options* options,
                                      isologit_score_report* report, char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::run_structs(request, options, report, isologit::score_logits);
  });
}

isologit_status isologit_backward_logits(const isologit_logits_backward_request* request,
                                         const isologit_backward_options* options, isologit_backward_report* report,
                                         char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::run_structs(request, options, report, isologit::backward_logits);
  });
}

}  // extern "C"
