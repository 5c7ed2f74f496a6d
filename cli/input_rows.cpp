#include "cli/input_rows.hpp"

#include <fmt/format.h>

#include <cmath>

namespace isologit::detail::cli {

Outcome<InputRows> choose_rows(const std::string& input, const io::Captured& captured, const io::Checkpoint& checkpoint,
                               const std::optional<RowSlice>& slice, std::optional<float> temperature, bool zero) {
  if (temperature && !captured.temperatures.empty()) {
    return usage_error(fmt::format(
        "--temperature was given, but '{}' has a temperature for each row (tensor temperatures); use one of the two",
        input));
  }
  InputRows rows{{0, captured.hidden.rows}, captured.hidden, {}};
  if (slice) {
    const Outcome<RowRange> range = resolve(*slice, captured.hidden.rows);
    if (!range) return tl::unexpected(range.error());
    rows.range = *range;
  }
  if (captured.hidden.cols != checkpoint.head.weight.cols) {
    return failure(fmt::format("'{}': hidden_states has rows of {} elements, but those of {} have {}", input,
                               captured.hidden.cols, checkpoint.weight_name, checkpoint.head.weight.cols));
  }
  const std::int64_t row_bytes = captured.hidden.cols * static_cast<std::int64_t>(dtype_size(captured.hidden.dtype));
  rows.hidden.data = static_cast<const std::byte*>(captured.hidden.data) + rows.range.begin * row_bytes;
  rows.hidden.rows = rows.range.end - rows.range.begin;
  if (temperature) rows.temperatures = {*temperature};
  if (captured.temperatures.empty()) return rows;
  for (std::int64_t row = rows.range.begin; row < rows.range.end; ++row) {
    const float t = captured.temperatures[static_cast<std::size_t>(row)];
    if (!std::isfinite(t) || !(t > 0 || (zero && t == 0))) {
      return failure(fmt::format("'{}': temperatures[{}] is {}; expected a finite number{}", input, row, t,
                                 zero ? ", 0 (greedy) or above" : " above 0"));
    }
    rows.temperatures.push_back(t);
  }
  return rows;
}

}  // namespace isologit::detail::cli
