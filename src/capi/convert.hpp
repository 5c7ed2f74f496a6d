// What the calls of the C interface share: its structures as types of the C++ interface, and failure as a status.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/text.hpp"
#include "capi/structs.hpp"
#include "isologit/arithmetic.hpp"
#include "isologit/backward.hpp"
#include "isologit/head.hpp"
#include "isologit/isologit.h"
#include "isologit/score.hpp"

namespace isologit::detail::capi {

template <class Enum>
constexpr int value(Enum e) {
  return static_cast<int>(e);
}

// The same members in the same places, so that arrays of them need no copy.
static_assert(sizeof(RowSummary) == sizeof(isologit_row_summary) &&
              offsetof(RowSummary, mass) == offsetof(isologit_row_summary, mass) &&
              offsetof(RowSummary, mass_error) == offsetof(isologit_row_summary, mass_error) &&
              offsetof(RowSummary, moment) == offsetof(isologit_row_summary, moment) &&
              offsetof(RowSummary, moment_error) == offsetof(isologit_row_summary, moment_error));

Result<DType> to_dtype(std::int32_t dtype, const char* name);
Result<Arithmetic> to_arithmetic(std::int32_t arithmetic, const char* name);
Result<MatrixView> to_view(const isologit_matrix& matrix, const char* name);
// The same of the rows that other arrays of a request have an element or more for, checked before these are read.
Result<MatrixView> to_rows(const isologit_matrix& matrix, const char* name);
Result<Head> to_head(const isologit_head* from);
Result<std::span<const float>> to_temperatures(const float* temperatures, std::int64_t count);
// `per_row` ids for each of the rows, or none where the pointer is NULL.
Result<std::span<const std::int64_t>> to_ids(const std::int64_t* ids, std::int64_t rows, std::int64_t per_row);

// Lists for `rows` rows, which were checked: offsets[rows] tells how many ids there are.
IdLists to_lists(const isologit_id_lists& c, std::int64_t rows);

// Of a structure with the members has_range, first_id, last_id, kept, banned and mask.
template <class Struct>
Result<Support> to_support(const Struct& c, std::int64_t rows) {
  Support support;
  if (c.has_range != 0) {
    if (c.last_id < 0) {
      return fail(StatusCode::invalid_argument, base::concat("last_id: ", c.last_id, "; expected 0 or more"));
    }
    support.first_id = c.first_id;
    support.last_id = c.last_id;
  }
  support.kept = to_lists(c.kept, rows);
  support.banned = to_lists(c.banned, rows);
  support.mask = {c.mask, c.mask_row_stride};
  return support;
}

// To a request whose hidden rows were checked: adds the support and the row selection of a structure that also has the
// members row_mask, row_list and row_count.
template <class Struct, class Request>
Result<void> add_selection(const Struct& c, Request& request) {
  const std::int64_t rows = request.hidden.rows;
  if (c.row_mask != nullptr) request.row_mask = {c.row_mask, static_cast<std::size_t>(rows)};
  if (c.row_list != nullptr) {
    if (c.row_count < 0) {
      return fail(StatusCode::invalid_argument, base::concat("row_count: ", c.row_count, "; expected 0 or more"));
    }
    request.use_row_list = true;
    request.row_list = {c.row_list, static_cast<std::size_t>(c.row_count)};
  }
  const auto support = to_support(c, rows);
  if (!support) return tl::unexpected(support.error());
  request.support = *support;
  return {};
}

Result<ScoreRequest> to_request(const isologit_score_request* from);
Result<ScoreOptions> to_options(const isologit_score_options* from);
Result<BackwardOptions> to_options(const isologit_backward_options* from);
// Fills c_report, or nothing where that is NULL.
Result<void> write_report(const ScoreReport& report, isologit_score_report* c_report);
Result<void> write_report(const BackwardReport& report, isologit_backward_report* c_report);

Result<std::optional<std::vector<int>>> to_processors(const std::int32_t* processors, std::int64_t count);
Result<std::optional<Peers>> to_peers(const isologit_peers* from);

// The C++ options of a structure with the members threads, kernel, progress, user, processors and, where it has that,
// peers; the rest is the caller's.
template <class Options, class Struct>
Result<Options> to_common_options(const Struct& c) {
  const auto processors = to_processors(c.processors, c.processor_count);
  if (!processors) return tl::unexpected(processors.error());
  Options options;
  options.processors = *processors;
  if constexpr (requires { c.peers; }) {
    const auto peers = to_peers(c.peers);
    if (!peers) return tl::unexpected(peers.error());
    options.peers = *peers;
  }
  options.threads = c.threads;
  if (c.kernel != nullptr) options.kernel = c.kernel;
  if (c.progress != nullptr) {
    options.progress = [call = c.progress, user = c.user](double share) { return call(user, share) != 0; };
  }
  return options;
}

// NULL is fine: no report is wanted.
template <class Report>
Result<void> check_report(const Report* report) {
  if (report == nullptr || writable(report)) return {};
  return fail(
      StatusCode::invalid_argument,
      base::concat("report: struct_size is too small; expected sizeof the structure, at least ", sizeof *report));
}

template <std::size_t Size>
void copy_text(std::string_view from, char (&to)[Size]) {
  const std::size_t length = std::min(from.size(), Size - 1);
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
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

}  // namespace isologit::detail::capi
