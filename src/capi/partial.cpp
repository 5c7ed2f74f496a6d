// isologit_partial_*.

#include "isologit/partial.hpp"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "capi/convert.hpp"

struct isologit_partial {
  isologit::PartialScore score;
  std::vector<std::byte> state;  // as it was last asked for; empty when something has changed since
};

namespace isologit::detail::capi {
namespace {

Result<void> missing(const char* name) {
  return fail(StatusCode::invalid_argument, base::concat(name, ": NULL; expected a pointer"));
}

Result<void> begin(const isologit_head* c_whole, const isologit_score_request* c_request,
                   const isologit_score_options* c_options, isologit_partial** partial) {
  if (partial == nullptr) return missing("partial");
  *partial = nullptr;
  const auto whole = to_head(c_whole);
  if (!whole) return tl::unexpected(whole.error());
  const auto request = to_request(c_request);
  if (!request) return tl::unexpected(request.error());
  const auto options = to_options(c_options);
  if (!options) return tl::unexpected(options.error());
  auto score = PartialScore::begin(whole->vocab_size, whole->weight.cols, whole->transforms, *request, *options);
  if (!score) return tl::unexpected(score.error());
  *partial = new isologit_partial{std::move(*score), {}};
  return {};
}

Result<void> absorb(isologit_partial* partial, const isologit_head* c_shard, std::int64_t first_id) {
  if (partial == nullptr) return missing("partial");
  const auto head = to_head(c_shard);
  if (!head) return tl::unexpected(head.error());
  partial->state.clear();
  return partial->score.absorb({*head, first_id});
}

Result<void> state(isologit_partial* partial, void* bytes, std::size_t capacity, std::size_t* size) {
  if (partial == nullptr) return missing("partial");
  if (size == nullptr) return missing("size");
  if (bytes == nullptr && capacity > 0) return missing("bytes");
  if (partial->state.empty()) {
    auto made = partial->score.state();
    if (!made) return tl::unexpected(made.error());
    partial->state = std::move(*made);
  }
  *size = partial->state.size();
  if (bytes == nullptr) return {};
  if (capacity < *size) {
    return fail(StatusCode::invalid_argument, base::concat("capacity: ", capacity, "; expected at least ", *size,
                                                           ", the size of this round's state"));
  }
  std::memcpy(bytes, partial->state.data(), *size);
  return {};
}

Result<void> merge(isologit_partial* partial, const void* bytes, std::size_t size) {
  if (partial == nullptr) return missing("partial");
  if (bytes == nullptr && size > 0) return missing("bytes");
  partial->state.clear();
  return partial->score.merge({static_cast<const std::byte*>(bytes), size});
}

Result<void> finish_round(isologit_partial* partial, std::int32_t* finished) {
  if (partial == nullptr) return missing("partial");
  if (finished == nullptr) return missing("finished");
  partial->state.clear();
  const auto result = partial->score.finish_round();
  if (!result) return tl::unexpected(result.error());
  *finished = *result ? 1 : 0;
  return {};
}

}  // namespace
}  // namespace isologit::detail::capi

namespace capi = isologit::detail::capi;

extern "C" {

isologit_status isologit_partial_begin(const isologit_head* whole, const isologit_score_request* request,
                                       const isologit_score_options* options, isologit_partial** partial, char* message,
                                       size_t message_size) {
  return capi::guarded(message, message_size, [&] { return capi::begin(whole, request, options, partial); });
}

isologit_status isologit_partial_absorb(isologit_partial* partial, const isologit_head* shard, int64_t first_id,
                                        char* message, size_t message_size) {
  return capi::guarded(message, message_size, [&] { return capi::absorb(partial, shard, first_id); });
}

isologit_status isologit_partial_state(isologit_partial* partial, void* bytes, size_t capacity, size_t* size,
                                       char* message, size_t message_size) {
  return capi::guarded(message, message_size, [&] { return capi::state(partial, bytes, capacity, size); });
}

isologit_status isologit_partial_merge(isologit_partial* partial, const void* bytes, size_t size, char* message,
                                       size_t message_size) {
  return capi::guarded(message, message_size, [&] { return capi::merge(partial, bytes, size); });
}

isologit_status isologit_partial_finish_round(isologit_partial* partial, int32_t* finished, char* message,
                                              size_t message_size) {
  return capi::guarded(message, message_size, [&] { return capi::finish_round(partial, finished); });
}

isologit_status isologit_partial_report(const isologit_partial* partial, isologit_score_report* report, char* message,
                                        size_t message_size) {
  return capi::guarded(message, message_size, [&]() -> isologit::Result<void> {
    if (partial == nullptr) return capi::missing("partial");
    if (report == nullptr) return capi::missing("report");
    return capi::write_report(partial->score.report(), report);
  });
}

void isologit_partial_end(isologit_partial* partial) { delete partial; }

}  // extern "C"
