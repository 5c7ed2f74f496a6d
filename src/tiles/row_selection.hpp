// Which rows of a request are computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "isologit/status.hpp"

namespace isologit::detail::tiles {

// Of `rows` hidden rows those in row_list with use_row_list, else those that row_mask names; else all.
struct RowSelection {
  std::int64_t rows;
  std::span<const std::uint8_t> row_mask;
  std::span<const std::int64_t> row_list;
  bool use_row_list;
};

Result<void> validate_selection(const RowSelection& selection);

// 1 for each row that is computed, else 0.
std::vector<std::uint8_t> selected_rows(const RowSelection& selection);

}  // namespace isologit::detail::tiles
