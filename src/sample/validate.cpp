#include "sample/validate.hpp"

#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/parties.hpp"
#include "base/text.hpp"
#include "tiles/overlap.hpp"
#include "tiles/row_selection.hpp"
#include "tiles/support.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::sample {
namespace {

// The generator numbers blocks of four ids with 31 bits (CONTRACT.md 4).
constexpr std::int64_t kMostIds = std::int64_t{1} << 33;

using tiles::invalid;

enum class Absent { allowed, refused };

template <class T>
Result<void> check_length(std::string_view name, std::span<const T> values, std::int64_t rows, Absent absent) {
  const auto size = static_cast<std::int64_t>(values.size());
  if (size == 1 || size == rows || (size == 0 && absent == Absent::allowed)) return {};
  return invalid(base::concat(name, ": ", size, " for ", rows, " rows; expected ",
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
  const tiles::Range outputs[] = {tiles::range_of("ids", request.ids, 8 * rows),
                                  tiles::range_of("logprobs", request.logprobs, 4 * rows),
                                  tiles::range_of("cut_logprobs", request.cut_logprobs, 4 * rows),
                                  tiles::range_of("log_kept_cut", request.log_kept_cut, 4 * rows)};
  std::vector<tiles::Range> inputs = tiles::operand_ranges(head, request.hidden, request.temperatures, request.support);
  inputs.insert(inputs.end(),
                {tiles::range_of("seeds", request.seeds), tiles::range_of("sequence_ids", request.sequence_ids),
                 tiles::range_of("positions", request.positions), tiles::range_of("min_p", request.min_p),
                 tiles::range_of("top_k", request.top_k), tiles::range_of("top_p", request.top_p),
                 tiles::range_of("row_mask", request.row_mask), tiles::range_of("row_list", request.row_list)});
  return tiles::check_apart(outputs, inputs);
}

}  // namespace

Result<void> validate_draws(const SampleRequest& request, std::int64_t vocab_size) {
  if (vocab_size > kMostIds) {
    return fail(StatusCode::unsupported, base::concat("vocab_size: ", vocab_size,
                                                      "; the generator of samples has words for ", kMostIds, " ids"));
  }
  if (auto checked = tiles::validate_temperatures(request.temperatures, request.hidden.rows, true); !checked) {
    return checked;
  }
  if (auto checked = check_lengths(request); !checked) return checked;
  return check_parameters(request);
}

Result<void> validate_request(const Head& head, const SampleRequest& request, const ScoreOptions& options,
                              std::int64_t vocab_size) {
  const std::int64_t rows = request.hidden.rows;
  if (auto checked = tiles::validate_threads(options.threads); !checked) return checked;
  if (auto checked = tiles::validate_selection({rows, request.row_mask, request.row_list, request.use_row_list});
      !checked) {
    return checked;
  }
  if (auto checked = tiles::validate_support(request.support, rows, vocab_size); !checked) return checked;
  if (auto checked = validate_draws(request, vocab_size); !checked) return checked;
  return check_overlap(head, request);
}

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  const base::Parties parties(options.peers, head.vocab_size);
  const std::int64_t vocab_size = parties.vocab_size();
  const Shard own{head, parties.first_id()};
  if (auto checked = tiles::validate_shard(own, vocab_size, head.weight.cols, head.transforms); !checked) {
    return checked;
  }
  if (auto checked = tiles::validate_hidden(request.hidden, head.weight.cols); !checked) return checked;
  return validate_request(head, request, options, vocab_size);
}

}  // namespace isologit::detail::sample
