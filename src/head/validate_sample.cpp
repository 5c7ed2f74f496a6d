#include "head/validate_sample.hpp"

#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/text.hpp"
#include "head/overlap.hpp"
#include "head/validate.hpp"

namespace isologit::head {
namespace {

// The generator numbers blocks of four ids with 31 bits (CONTRACT.md 4).
constexpr std::int64_t kMostIds = std::int64_t{1} << 33;

Result<void> invalid(std::string message) { return fail(StatusCode::invalid_argument, std::move(message)); }

enum class Absent { allowed, refused };

template <class T>
Result<void> check_length(std::string_view name, std::span<const T> values, std::int64_t rows, Absent absent) {
  const auto size = static_cast<std::int64_t>(values.size());
  if (size == 1 || size == rows || (size == 0 && absent == Absent::allowed)) return {};
  return invalid(base::concat(name, ": ", size, " for ", rows, " hidden rows; expected ",
                              absent == Absent::allowed ? "none, " : "", "one or one per row"));
}

template <class T, class Good>
Result<void> check_values(std::string_view name, std::span<const T> values, std::string_view expected, Good good) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!good(values[i])) return invalid(base::concat(name, "[", i, "]: ", values[i], "; expected ", expected));
  }
  return {};
}

Result<void> check_lengths(const SampleRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  for (const Result<void>& checked : {check_length("seeds", request.seeds, rows, Absent::refused),
                                      check_length("sequence_ids", request.sequence_ids, rows, Absent::refused),
                                      check_length("positions", request.positions, rows, Absent::refused),
                                      check_length("min_p", request.min_p, rows, Absent::allowed),
                                      check_length("top_k", request.top_k, rows, Absent::allowed),
                                      check_length("top_p", request.top_p, rows, Absent::allowed)}) {
    if (!checked) return checked;
  }
  return {};
}

Result<void> check_parameters(const SampleRequest& request) {
  for (const Result<void>& checked :
       {check_values("min_p", request.min_p, "0 (no cut) to 1", [](float p) { return p >= 0 && p <= 1; }),
        check_values("top_k", request.top_k, "0 (no cut) or above", [](std::int64_t k) { return k >= 0; }),
        check_values("top_p", request.top_p, "a number above 0, up to 1 (no cut)",
                     [](float p) { return p > 0 && p <= 1; })}) {
    if (!checked) return checked;
  }
  return {};
}

Result<void> check_overlap(const Head& head, const SampleRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const Range outputs[] = {range_of("ids", request.ids, 8 * rows), range_of("logprobs", request.logprobs, 4 * rows),
                           range_of("cut_logprobs", request.cut_logprobs, 4 * rows),
                           range_of("log_kept_cut", request.log_kept_cut, 4 * rows)};
  const Range inputs[] = {range_of("hidden", request.hidden),
                          range_of("weight", head.weight),
                          range_of("bias", head.bias),
                          range_of("temperatures", request.temperatures),
                          range_of("seeds", request.seeds),
                          range_of("sequence_ids", request.sequence_ids),
                          range_of("positions", request.positions),
                          range_of("min_p", request.min_p),
                          range_of("top_k", request.top_k),
                          range_of("top_p", request.top_p),
                          range_of("row_mask", request.row_mask),
                          range_of("row_list", request.row_list),
                          range_of("kept ids", request.support.kept.ids),
                          range_of("kept offsets", request.support.kept.offsets),
                          range_of("banned ids", request.support.banned.ids),
                          range_of("banned offsets", request.support.banned.offsets)};
  return check_apart(outputs, inputs);
}

}  // namespace

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  // The head, the hidden rows, their selection, the support and the options are as for scoring.
  ScoreRequest rows;
  rows.hidden = request.hidden;
  rows.row_mask = request.row_mask;
  rows.row_list = request.row_list;
  rows.use_row_list = request.use_row_list;
  rows.support = request.support;
  if (auto checked = validate_shard({head, 0}, head.vocab_size, head.weight.cols, head.transforms); !checked) {
    return checked;
  }
  if (auto checked = validate(head.vocab_size, head.weight.cols, head.transforms, rows, options); !checked) {
    return checked;
  }
  if (head.vocab_size > kMostIds) {
    return fail(StatusCode::unsupported, base::concat("vocab_size: ", head.vocab_size,
                                                      "; the generator of samples has words for ", kMostIds, " ids"));
  }
  if (auto checked = validate_temperatures(request.temperatures, request.hidden.rows, true); !checked) return checked;
  if (auto checked = check_lengths(request); !checked) return checked;
  if (auto checked = check_parameters(request); !checked) return checked;
  return check_overlap(head, request);
}

}  // namespace isologit::head
