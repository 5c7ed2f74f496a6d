#include "score/validate.hpp"

#include <vector>

#include "base/text.hpp"
#include "tiles/overlap.hpp"
#include "tiles/row_selection.hpp"
#include "tiles/support.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::score {
namespace {

using tiles::invalid;

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

Result<void> check_per_row_outputs(const ScoreRequest& request, std::int64_t vocab_size, bool split) {
  const std::int64_t rows = request.hidden.rows;
  if (auto checked = tiles::validate_per_row("ids_per_row", request.ids_per_row, rows); !checked) return checked;
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
    if (split) return invalid("logits: asked for together with peers; expected a call of each party alone, of its ids");
    if (auto checked = tiles::validate_ids("logits", logits.first_id, logits.count, vocab_size); !checked) {
      return checked;
    }
    if (auto checked = tiles::validate_stride("logits", rows, logits.count, logits.row_stride); !checked) {
      return checked;
    }
    if (static_cast<int>(logits.dtype) > static_cast<int>(DType::f32)) {
      return invalid(
          base::concat("logits: unknown dtype ", static_cast<int>(logits.dtype), "; expected bf16, f16 or f32"));
    }
  }
  return {};
}

std::vector<tiles::Range> outputs_of(const ScoreRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const LogitsOutput& logits = request.logits;
  const MatrixView all{logits.data, logits.dtype, rows, logits.count, rows <= 1 ? 0 : logits.row_stride};
  // Of a k that is not used anything may be said.
  const std::int64_t k = request.top_k_ids == nullptr && request.top_k_logprobs == nullptr ? 0 : request.top_k;
  return {tiles::range_of("logprobs", request.logprobs, 4 * rows),
          tiles::range_of("raw_logprobs", request.raw_logprobs, 4 * rows),
          tiles::range_of("lse", request.lse, 4 * rows),
          tiles::range_of("entropy", request.entropy, 4 * rows),
          tiles::range_of("sum_p2", request.sum_p2, 4 * rows),
          tiles::range_of("log_kept", request.log_kept, 4 * rows),
          tiles::range_of("mean_logits", request.mean_logits, 4 * rows),
          tiles::range_of("argmax", request.argmax, 8 * rows),
          tiles::range_of("rank", request.rank, 8 * rows),
          tiles::range_of("ids_logprobs", request.ids_logprobs, 4 * rows * request.ids_per_row),
          tiles::range_of("top_k_ids", request.top_k_ids, 8 * rows * k),
          tiles::range_of("top_k_logprobs", request.top_k_logprobs, 4 * rows * k),
          tiles::range_of("summaries", request.summaries, static_cast<std::int64_t>(sizeof(RowSummary)) * rows),
          tiles::range_of("logits", all)};
}

}  // namespace

Result<void> validate(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                      const ScoreRequest& request, const ScoreOptions& options) {
  if (vocab_size < 1 || vocab_size > tiles::kMostElements) {
    return invalid(base::concat("vocab_size: ", vocab_size, "; expected at least 1, within the address space"));
  }
  if (auto checked = tiles::validate_transforms(transforms); !checked) return checked;
  if (auto checked = tiles::validate_hidden(request.hidden, cols); !checked) return checked;
  const std::int64_t rows = request.hidden.rows;
  if (auto checked = tiles::validate_threads(options.threads); !checked) return checked;
  if (auto checked = tiles::validate_selection({rows, request.row_mask, request.row_list, request.use_row_list});
      !checked) {
    return checked;
  }
  if (auto checked = check_token_ids(request, vocab_size); !checked) return checked;
  if (auto checked = check_per_row_outputs(request, vocab_size, options.peers.has_value()); !checked) {
    return checked;
  }
  if (auto checked = tiles::validate_support(request.support, rows, vocab_size); !checked) return checked;
  return tiles::validate_temperatures(request.temperatures, rows, false);
}

Result<void> validate_overlap(const Head& head, const ScoreRequest& request) {
  const std::vector<tiles::Range> outputs = outputs_of(request);
  std::vector<tiles::Range> inputs = tiles::operand_ranges(head, request.hidden, request.temperatures, request.support);
  inputs.insert(inputs.end(),
                {tiles::range_of("token_ids", request.token_ids), tiles::range_of("row_mask", request.row_mask),
                 tiles::range_of("row_list", request.row_list), tiles::range_of("ids", request.ids)});
  return tiles::check_apart(outputs, inputs);
}

}  // namespace isologit::detail::score
