// What the calls of the forward pass and of its gradients share.
#pragma once

#include <tuple>

#include "capi/convert.hpp"
#include "isologit/forward.h"
#include "isologit/forward.hpp"

namespace isologit::detail::capi {

namespace fw = isologit::forward;

inline constexpr std::int64_t kMostSequences = std::int64_t{1} << 40;  // bytes of their arrays stay far from overflow

inline tl::unexpected<Error> invalid(std::string message) {
  return fail(StatusCode::invalid_argument, std::move(message));
}

inline Result<fw::TensorView> to_tensor(const isologit_tensor& c, const char* name) {
  const auto dtype = to_dtype(c.dtype, name);
  if (!dtype) return tl::unexpected(dtype.error());
  return fw::TensorView{c.data, *dtype, c.tokens, c.heads == 0 ? 1 : c.heads, c.dim, c.token_stride, c.head_stride};
}

// One that may be left out.
inline Result<fw::TensorView> to_optional_tensor(const isologit_tensor& c, const char* name) {
  return c.data == nullptr ? fw::TensorView{} : to_tensor(c, name);
}

inline Result<VectorView> to_vector(const isologit_vector& c, const char* name) {
  const auto dtype = to_dtype(c.dtype, name);
  if (!dtype) return tl::unexpected(dtype.error());
  return VectorView{c.data, *dtype, c.size};
}

inline fw::TensorOutput to_output(const isologit_tensor_output& c) { return {c.data, c.token_stride, c.head_stride}; }

// `count` elements of a list, whose number was given or comes with a tensor.
template <class T>
Result<std::span<const T>> to_list(const T* data, std::int64_t count, const char* name) {
  if (count < 0 || count > kMostSequences) return invalid(base::concat(name, ": ", count, " elements"));
  if (data == nullptr && count > 0) return invalid(base::concat(name, ": NULL; expected ", count, " elements"));
  return std::span<const T>(data, static_cast<std::size_t>(count));
}

// The values of all, or the error of the first that has none; all are made, so that none may rest on another's check.
template <class... T>
Result<std::tuple<T...>> together(const Result<T>&... parts) {
  const Error* error = nullptr;
  ((error = error == nullptr && !parts ? &parts.error() : error), ...);
  if (error != nullptr) return tl::unexpected(*error);
  return std::tuple<T...>(*parts...);
}

Result<fw::GateKind> to_gate_kind(std::int32_t kind);
Result<fw::AttentionRequest> to_request(const isologit_attention_request& c);
Result<fw::CombineRequest> to_request(const isologit_combine_request& c);

inline Result<fw::Options> to_forward_options(const isologit_forward_options* from) {
  if (from == nullptr) return fw::Options{};
  const auto c = read(from, "options");
  if (!c) return tl::unexpected(c.error());
  return to_common_options<fw::Options>(*c);
}

// `convert` makes the request of the C++ interface, `compute` is its operator.
template <class Struct, class Convert, class Compute>
isologit_status run(const Struct* c_request, const isologit_forward_options* c_options,
                    isologit_forward_report* c_report, char* message, std::size_t message_size, Convert convert,
                    Compute compute) {
  return guarded(message, message_size, [&]() -> Result<void> {
    const auto c = read(c_request, "request");
    if (!c) return tl::unexpected(c.error());
    const auto request = convert(*c);
    if (!request) return tl::unexpected(request.error());
    const auto options = to_forward_options(c_options);
    if (!options) return tl::unexpected(options.error());
    if (auto checked = check_report(c_report); !checked) return checked;
    const auto report = compute(*request, *options);
    if (!report) return tl::unexpected(report.error());
    if (c_report == nullptr) return {};
    isologit_forward_report filled{};
    copy_text(report->kernel, filled.kernel);
    filled.threads = report->threads;
    filled.processors = report->processors;
    filled.settled = report->settled;
    write(filled, c_report);
    return {};
  });
}

}  // namespace isologit::detail::capi

// The call of the operator `name` of the C++ interface, whose request to_request makes.
#define ISOLOGIT_OPERATOR(name)                                                                                      \
  isologit_status isologit_##name(const isologit_##name##_request* request, const isologit_forward_options* options, \
                                  isologit_forward_report* report, char* message, size_t message_size) {             \
    using namespace isologit::detail::capi;                                                                          \
    const auto convert = [](const isologit_##name##_request& c) { return to_request(c); };                           \
    return run(request, options, report, message, message_size, convert, isologit::forward::name);                   \
  }
