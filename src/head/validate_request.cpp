// A score's request: row selection, ids, the support, and that buffers are apart.

#include <vector>

#include "base/text.hpp"
#include "head/overlap.hpp"
#include "head/validate.hpp"

namespace isologit::head {
namespace {

Result<void> invalid(std::string message) { return fail(StatusCode::invalid_argument, std::move(message)); }

constexpr std::int64_t kMostTopK = 1024;

Result<void> check_ids(std::string_view name, std::span<const std::int64_t> ids, std::int64_t per_row,
                       std::int64_t vocab_size, std::int64_t ignore_index) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == ignore_index || (ids[i] >= 0 && ids[i] < vocab_size)) continue;
    const auto at = static_cast<std::int64_t>(i);
    const std::string place = per_row == 1 ? base::concat(at) : base::concat(at / per_row, ", ", at % per_row);
    return invalid(base::concat(name, "[", place, "]: ", ids[i], " is outside the vocabulary [0, ", vocab_size,
                                ") and is not the ignore_index ", ignore_index));
  }
  return {};
}

Result<void> check_row_selection(const ScoreRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const auto masked = static_cast<std::int64_t>(request.row_mask.size());
  if (masked != 0 && masked != rows) return invalid(base::concat("row_mask: ", masked, " for ", rows, " hidden rows"));
  if (!request.use_row_list && !request.row_list.empty()) {
    return invalid("row_list: given, but use_row_list is not set");
  }
  if (request.use_row_list && masked != 0) return invalid("row_list and row_mask: both given; expected one of them");
  std::int64_t previous = -1;
  for (std::size_t i = 0; i < request.row_list.size(); ++i) {
    const std::int64_t row = request.row_list[i];
    if (row <= previous || row >= rows) {
      return invalid(
          base::concat("row_list[", i, "]: ", row, " after ", previous, "; expected ascending indices below ", rows));
    }
    previous = row;
  }
  return {};
}

Result<void> check_lists(std::string_view name, const IdLists& lists, std::int64_t rows, std::int64_t vocab_size) {
  if (lists.offsets.empty()) {
    if (lists.ids.empty()) return {};
    return invalid(base::concat(name, ": ", lists.ids.size(), " ids but no offsets"));
  }
  if (static_cast<std::int64_t>(lists.offsets.size()) != rows + 1) {
    return invalid(base::concat(name, ": ", lists.offsets.size(), " offsets for ", rows, " rows; expected ", rows + 1));
  }
  const auto total = static_cast<std::int64_t>(lists.ids.size());
  if (lists.offsets.front() != 0 || lists.offsets.back() != total) {
    return invalid(base::concat(name, ": offsets from ", lists.offsets.front(), " to ", lists.offsets.back(), " for ",
                                total, " ids; expected 0 to ", total));
  }
  for (std::size_t row = 0; row + 1 < lists.offsets.size(); ++row) {
    const std::int64_t begin = lists.offsets[row];
    const std::int64_t end = lists.offsets[row + 1];
    if (end < begin || end > total) {
      return invalid(
          base::concat(name, ": the offsets of row ", row, " go from ", begin, " to ", end, " of ", total, " ids"));
    }
    std::int64_t previous = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t id = lists.ids[static_cast<std::size_t>(i)];
      if (id <= previous || id >= vocab_size) {
        return invalid(base::concat(name, ": row ", row, " has id ", id, " after ", previous,
                                    "; expected ascending ids, each once, in [0, ", vocab_size, ")"));
      }
      previous = id;
    }
  }
  return {};
}

Result<void> check_token_ids(const ScoreRequest& request, std::int64_t vocab_size) {
  const std::int64_t rows = request.hidden.rows;
  const auto ids = static_cast<std::int64_t>(request.token_ids.size());
  const bool needed = request.logprobs != nullptr || request.raw_logprobs != nullptr || request.rank != nullptr;
  if (ids == 0 && rows > 0 && needed) {
    return invalid("token_ids: none given, but logprobs, raw_logprobs or rank asked for");
  }
  if (ids != 0 && ids != rows) return invalid(base::concat("token_ids: ", ids, " for ", rows, " hidden rows"));
  return check_ids("token_ids", request.token_ids, 1, vocab_size, request.ignore_index);
}

Result<void> check_per_row_outputs(const ScoreRequest& request, std::int64_t vocab_size) {
  const std::int64_t rows = request.hidden.rows;
  if (request.ids_logprobs != nullptr) {
    if (request.ids_per_row < 1) {
      return invalid(
          base::concat("ids_per_row: ", request.ids_per_row, "; expected at least 1 when ids_logprobs is asked for"));
    }
    const auto given = static_cast<std::int64_t>(request.ids.size());
    if (given / request.ids_per_row != rows || given % request.ids_per_row != 0) {
      return invalid(base::concat("ids: ", given, " for ", rows, " hidden rows of ", request.ids_per_row));
    }
    if (auto checked = check_ids("ids", request.ids, request.ids_per_row, vocab_size, request.ignore_index); !checked) {
      return checked;
    }
  }
  const bool top_k = request.top_k_ids != nullptr || request.top_k_logprobs != nullptr;
  if (top_k && (request.top_k < 1 || request.top_k > kMostTopK)) {
    return invalid(base::concat("top_k: ", request.top_k, "; expected 1 to ", kMostTopK));
  }
  const LogitsOutput& logits = request.logits;
  if (logits.data != nullptr) {
    if (logits.first_id < 0 || logits.count < 0 || logits.first_id > vocab_size - logits.count) {
      return invalid(base::concat("logits: ids [", logits.first_id, ", ", logits.first_id + logits.count,
                                  ") lie outside the vocabulary [0, ", vocab_size, ")"));
    }
    if (logits.row_stride < logits.count && rows > 1) {
      return invalid(
          base::concat("logits: a row stride of ", logits.row_stride, " for ", logits.count, " logits a row"));
    }
    if (static_cast<int>(logits.dtype) > static_cast<int>(DType::f32)) {
      return invalid(
          base::concat("logits: unknown dtype ", static_cast<int>(logits.dtype), "; expected bf16, f16 or f32"));
    }
  }
  return {};
}

std::vector<Range> outputs_of(const ScoreRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const LogitsOutput& logits = request.logits;
  const std::int64_t logit_size = static_cast<std::int64_t>(dtype_size(logits.dtype));
  return {
      range_of("logprobs", request.logprobs, 4 * rows),
      range_of("raw_logprobs", request.raw_logprobs, 4 * rows),
      range_of("lse", request.lse, 4 * rows),
      range_of("entropy", request.entropy, 4 * rows),
      range_of("sum_p2", request.sum_p2, 4 * rows),
      range_of("log_kept", request.log_kept, 4 * rows),
      range_of("argmax", request.argmax, 8 * rows),
      range_of("rank", request.rank, 8 * rows),
      range_of("ids_logprobs", request.ids_logprobs, 4 * rows * request.ids_per_row),
      range_of("top_k_ids", request.top_k_ids, 8 * rows * request.top_k),
      range_of("top_k_logprobs", request.top_k_logprobs, 4 * rows * request.top_k),
      range_of("summaries", request.summaries, static_cast<std::int64_t>(sizeof(RowSummary)) * rows),
      range_of("logits", logits.data, rows == 0 ? 0 : ((rows - 1) * logits.row_stride + logits.count) * logit_size)};
}

}  // namespace

Result<void> validate_support(const Support& support, std::int64_t rows, std::int64_t vocab_size) {
  const std::int64_t last = support.last_id < 0 ? vocab_size : support.last_id;
  if (support.first_id < 0 || support.first_id > last || last > vocab_size) {
    return invalid(base::concat("support: range [", support.first_id, ", ", last, ") of a vocabulary of ", vocab_size));
  }
  if (auto checked = check_lists("kept ids", support.kept, rows, vocab_size); !checked) return checked;
  return check_lists("banned ids", support.banned, rows, vocab_size);
}

Result<void> validate(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                      const ScoreRequest& request, const ScoreOptions& options) {
  if (vocab_size < 1) return invalid(base::concat("vocab_size: ", vocab_size, "; expected at least 1"));
  if (auto checked = validate_transforms(transforms); !checked) return checked;
  if (auto checked = validate_matrix("hidden", request.hidden); !checked) return checked;
  if (request.hidden.cols != cols) {
    return invalid(base::concat("hidden: rows of ", request.hidden.cols, " elements, but the weight's have ", cols));
  }
  if (auto checked = validate_threads(options.threads); !checked) return checked;
  if (auto checked = check_row_selection(request); !checked) return checked;
  if (auto checked = check_token_ids(request, vocab_size); !checked) return checked;
  if (auto checked = check_per_row_outputs(request, vocab_size); !checked) return checked;
  if (auto checked = validate_support(request.support, request.hidden.rows, vocab_size); !checked) return checked;
  return validate_temperatures(request.temperatures, request.hidden.rows, false);
}

Result<void> validate_overlap(const Head& head, const ScoreRequest& request) {
  const std::vector<Range> outputs = outputs_of(request);
  const std::vector<Range> inputs = {range_of("hidden", request.hidden),
                                     range_of("weight", head.weight),
                                     range_of("bias", head.bias),
                                     range_of("token_ids", request.token_ids),
                                     range_of("temperatures", request.temperatures),
                                     range_of("row_mask", request.row_mask),
                                     range_of("row_list", request.row_list),
                                     range_of("ids", request.ids),
                                     range_of("kept ids", request.support.kept.ids),
                                     range_of("kept offsets", request.support.kept.offsets),
                                     range_of("banned ids", request.support.banned.ids),
                                     range_of("banned offsets", request.support.banned.offsets)};
  return check_apart(outputs, inputs);
}

}  // namespace isologit::head
