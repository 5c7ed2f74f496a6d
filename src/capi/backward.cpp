// The C interface of gradients and of the losses they are taken of.

#include "isologit/backward.hpp"

#include "capi/convert.hpp"

namespace isologit::detail::capi {
namespace {

Result<GradientOutput> to_output(const isologit_gradient& c, const char* name) {
  const auto dtype = to_dtype(c.dtype, name);
  if (!dtype) return tl::unexpected(dtype.error());
  return GradientOutput{c.data, *dtype, c.row_stride, c.accumulate != 0};
}

Result<void> add_outputs(const isologit_backward_request& c, BackwardRequest& request) {
  const auto dhidden = to_output(c.dhidden, "dhidden");
  if (!dhidden) return tl::unexpected(dhidden.error());
  const auto dweight = to_output(c.dweight, "dweight");
  if (!dweight) return tl::unexpected(dweight.error());
  const auto dbias = to_output(c.dbias, "dbias");
  if (!dbias) return tl::unexpected(dbias.error());
  const auto dlora_a = to_output(c.dlora_a, "dlora_a");
  if (!dlora_a) return tl::unexpected(dlora_a.error());
  const auto dlora_b = to_output(c.dlora_b, "dlora_b");
  if (!dlora_b) return tl::unexpected(dlora_b.error());
  request.dlora_a = *dlora_a;
  request.dlora_b = *dlora_b;
  request.dhidden = *dhidden;
  request.dweight = *dweight;
  request.dbias = *dbias;
  return {};
}

Result<BackwardRequest> to_request(const isologit_backward_request* from, std::int64_t vocab_size) {
  const auto c = read(from, "request");
  if (!c) return tl::unexpected(c.error());
  const auto hidden = to_rows(c->hidden, "hidden");
  if (!hidden) return tl::unexpected(hidden.error());
  const auto temperatures = to_temperatures(c->temperatures, c->temperature_count);
  if (!temperatures) return tl::unexpected(temperatures.error());
  BackwardRequest request{.hidden = *hidden, .token_ids = {}, .temperatures = *temperatures};
  const std::int64_t rows = hidden->rows;
  if (c->ids_per_row != 0) request.ids_per_row = c->ids_per_row;
  const auto ids = to_ids(c->token_ids, rows, request.ids_per_row);
  if (!ids) return tl::unexpected(ids.error());
  request.token_ids = *ids;
  if (c->has_ignore_index != 0) request.ignore_index = c->ignore_index;
  const auto support = to_support(*c, rows);
  if (!support) return tl::unexpected(support.error());
  request.support = *support;
  request.d_logprobs = c->d_logprobs;
  request.d_lse = c->d_lse;
  request.d_entropy = c->d_entropy;
  request.d_mean_logits = c->d_mean_logits;
  if (c->summaries != nullptr) {
    request.summaries = {reinterpret_cast<const RowSummary*>(c->summaries), static_cast<std::size_t>(rows)};
  }
  if (c->d_logits != nullptr) {
    request.d_logits = {c->d_logits, DType::f32, rows, vocab_size, c->d_logits_row_stride};
  }
  if (auto added = add_outputs(*c, request); !added) return tl::unexpected(added.error());
  return request;
}

Result<void> backward_structs(const isologit_head* c_head, const isologit_backward_request* c_request,
                              const isologit_backward_options* c_options, isologit_backward_report* c_report) {
  const auto head = to_head(c_head);
  if (!head) return tl::unexpected(head.error());
  const auto request = to_request(c_request, head->vocab_size);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  if (auto checked = check_report(c_report); !checked) return checked;
  const auto report = backward(*head, *request, *options);
  if (!report) return tl::unexpected(report.error());
  return write_report(*report, c_report);
}

struct Logprobs {
  const float* values;
  std::int64_t count;
  const std::int64_t* token_ids;
  std::int64_t ignore_index;
};

// `reduce` is mean_loss or sum_loss.
template <class Reduce>
Result<void> reduce_losses(const Logprobs& logprobs, float* loss, Reduce reduce) {
  if (logprobs.count < 0 || (logprobs.count > 0 && logprobs.values == nullptr)) {
    return fail(StatusCode::invalid_argument,
                base::concat("logprobs: count is ", logprobs.count, " and the pointer is ",
                             logprobs.values == nullptr ? "" : "not ", "NULL; expected as many as the count says"));
  }
  if (loss == nullptr) return fail(StatusCode::invalid_argument, "loss: NULL; expected where to write it");
  const auto count = static_cast<std::size_t>(logprobs.count);
  std::span<const std::int64_t> ids;
  if (logprobs.token_ids != nullptr) ids = {logprobs.token_ids, count};
  *loss = reduce(std::span<const float>(logprobs.values, count), ids, logprobs.ignore_index);
  return {};
}

}  // namespace
}  // namespace isologit::detail::capi

extern "C" {

isologit_status isologit_backward(const isologit_head* head, const isologit_backward_request* request,
                                  const isologit_backward_options* options, isologit_backward_report* report,
                                  char* message, size_t message_size) {
  return isologit::detail::capi::guarded(
      message, message_size, [&] { return isologit::detail::capi::backward_structs(head, request, options, report); });
}

isologit_status isologit_mean_loss(const float* logprobs, int64_t count, const int64_t* token_ids, int64_t ignore_index,
                                   float* loss, char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::reduce_losses({logprobs, count, token_ids, ignore_index}, loss, isologit::mean_loss);
  });
}

isologit_status isologit_sum_loss(const float* logprobs, int64_t count, const int64_t* token_ids, int64_t ignore_index,
                                  float* loss, char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&] {
    return isologit::detail::capi::reduce_losses({logprobs, count, token_ids, ignore_index}, loss, isologit::sum_loss);
  });
}

isologit_status isologit_mean_loss_upstream(float g, int64_t n, float* upstream, char* message, size_t message_size) {
  return isologit::detail::capi::guarded(message, message_size, [&]() -> isologit::Result<void> {
    if (n < 1) {
      return isologit::fail(isologit::StatusCode::invalid_argument,
                            isologit::detail::base::concat("n: ", n, "; expected 1 or more logprobs"));
    }
    if (upstream == nullptr) {
      return isologit::fail(isologit::StatusCode::invalid_argument, "upstream: NULL; expected where to write it");
    }
    *upstream = isologit::mean_loss_upstream(g, n);
    return {};
  });
}

}  // extern "C"
