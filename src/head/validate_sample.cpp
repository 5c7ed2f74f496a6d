#include "head/validate_sample.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

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
  return invalid(fmt::format("{}: {} for {} hidden rows; expected {}one or one per row", name, size, rows,
                             absent == Absent::allowed ? "none, " : ""));
}

template <class T, class Good>
Result<void> check_values(std::string_view name, std::span<const T> values, std::string_view expected, Good good) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!good(values[i])) return invalid(fmt::format("{}[{}]: {}; expected {}", name, i, values[i], expected));
  }
  return {};
}

Result<void> check_lengths(const SampleRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  for (const Result<void>& checked : {check_length("temperatures", request.temperatures, rows, Absent::allowed),
                                      check_length("seeds", request.seeds, rows, Absent::refused),
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
       {check_values("temperatures", request.temperatures, "a finite number, 0 (greedy) or above",
                     [](float t) { return t >= 0 && std::isfinite(t); }),
        check_values("min_p", request.min_p, "0 (no cut) to 1", [](float p) { return p >= 0 && p <= 1; }),
        check_values("top_k", request.top_k, "0 (no cut) or above", [](std::int64_t k) { return k >= 0; }),
        check_values("top_p", request.top_p, "a number above 0, up to 1 (no cut)",
                     [](float p) { return p > 0 && p <= 1; })}) {
    if (!checked) return checked;
  }
  return {};
}

struct Range {
  std::string_view name;
  std::uintptr_t begin;
  std::uintptr_t end;
};

Range range_of(std::string_view name, const void* data, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {name, begin, data == nullptr ? begin : begin + bytes};
}

Range range_of(std::string_view name, const MatrixView& matrix) {
  const auto size = static_cast<std::int64_t>(dtype_size(matrix.dtype));
  if (matrix.rows == 0) return range_of(name, nullptr, 0);
  const std::int64_t reach = (matrix.rows - 1) * matrix.row_stride * size;
  Range range = range_of(name, matrix.data, static_cast<std::size_t>(matrix.cols * size));
  (reach < 0 ? range.begin : range.end) += static_cast<std::uintptr_t>(reach);
  return range;
}

template <class T>
Range range_of(std::string_view name, std::span<const T> values) {
  return range_of(name, values.data(), values.size_bytes());
}

Result<void> check_overlap(const Head& head, const SampleRequest& request) {
  const auto rows = static_cast<std::size_t>(request.hidden.rows);
  const Range outputs[] = {range_of("ids", request.ids, 8 * rows), range_of("logprobs", request.logprobs, 4 * rows),
                           range_of("cut_logprobs", request.cut_logprobs, 4 * rows),
                           range_of("log_kept_cut", request.log_kept_cut, 4 * rows)};
  const Range inputs[] = {
      range_of("hidden", request.hidden),
      range_of("weight", head.weight),
      range_of("bias", head.bias.data, static_cast<std::size_t>(head.bias.size) * dtype_size(head.bias.dtype)),
      range_of("temperatures", request.temperatures),
      range_of("seeds", request.seeds),
      range_of("sequence_ids", request.sequence_ids),
      range_of("positions", request.positions),
      range_of("min_p", request.min_p),
      range_of("top_k", request.top_k),
      range_of("top_p", request.top_p)};
  const auto overlap = [](const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; };
  for (const Range& output : outputs) {
    for (const Range& input : inputs) {
      if (overlap(output, input)) {
        return invalid(fmt::format("{}: the output buffer overlaps the input {}", output.name, input.name));
      }
    }
    for (const Range& other : outputs) {
      if (output.name != other.name && overlap(output, other)) {
        return invalid(fmt::format("{}: the output buffer overlaps that of {}", output.name, other.name));
      }
    }
  }
  return {};
}

}  // namespace

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  // The head, the hidden rows and the options are as for scoring.
  ScoreRequest rows;
  rows.hidden = request.hidden;
  if (auto checked = validate(head, rows, options); !checked) return checked;
  if (head.vocab_size > kMostIds) {
    return fail(StatusCode::unsupported, fmt::format("vocab_size: {}; the generator of samples has words for {} ids",
                                                     head.vocab_size, kMostIds));
  }
  if (auto checked = check_lengths(request); !checked) return checked;
  if (auto checked = check_parameters(request); !checked) return checked;
  return check_overlap(head, request);
}

}  // namespace isologit::head
