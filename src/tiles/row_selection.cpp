#include "tiles/row_selection.hpp"

#include <string>

#include "base/text.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::tiles {
Result<void> validate_selection(const RowSelection& selection) {
  const std::int64_t rows = selection.rows;
  const auto masked = static_cast<std::int64_t>(selection.row_mask.size());
  if (masked != 0 && masked != rows) return invalid(base::concat("row_mask: ", masked, " for ", rows, " hidden rows"));
  if (!selection.use_row_list && !selection.row_list.empty()) {
    return invalid("row_list: given, but use_row_list is not set");
  }
  if (selection.use_row_list && masked != 0) return invalid("row_list and row_mask: both given; expected one of them");
  const auto listed = static_cast<std::int64_t>(selection.row_list.size());
  if (listed > rows) return invalid(base::concat("row_list: ", listed, " indices for ", rows, " hidden rows"));
  std::int64_t previous = -1;
  for (std::size_t i = 0; i < selection.row_list.size(); ++i) {
    const std::int64_t row = selection.row_list[i];
    if (row <= previous || row >= rows) {
      return invalid(
          base::concat("row_list[", i, "]: ", row, " after ", previous, "; expected ascending indices below ", rows));
    }
    previous = row;
  }
  return {};
}

std::vector<std::uint8_t> selected_rows(const RowSelection& selection) {
  std::vector<std::uint8_t> selected(static_cast<std::size_t>(selection.rows), selection.use_row_list ? 0 : 1);
  for (const std::int64_t row : selection.row_list) selected[static_cast<std::size_t>(row)] = 1;
  for (std::size_t i = 0; i < selection.row_mask.size(); ++i) selected[i] = selection.row_mask[i] != 0 ? 1 : 0;
  return selected;
}

}  // namespace isologit::detail::tiles
