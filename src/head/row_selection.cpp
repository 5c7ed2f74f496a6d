#include "head/row_selection.hpp"

namespace isologit::head {

std::vector<std::uint8_t> selected_rows(std::int64_t rows, std::span<const std::uint8_t> row_mask,
                                        std::span<const std::int64_t> row_list, bool use_row_list) {
  std::vector<std::uint8_t> selected(static_cast<std::size_t>(rows), use_row_list ? 0 : 1);
  for (const std::int64_t row : row_list) selected[static_cast<std::size_t>(row)] = 1;
  for (std::size_t i = 0; i < row_mask.size(); ++i) selected[i] = row_mask[i] != 0 ? 1 : 0;
  return selected;
}

}  // namespace isologit::head
