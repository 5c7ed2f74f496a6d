// Which rows of a request are computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace isologit::head {

// 1 for each of `rows` rows that the request names: by row_list with use_row_list, else by row_mask; else all.
std::vector<std::uint8_t> selected_rows(std::int64_t rows, std::span<const std::uint8_t> row_mask,
                                        std::span<const std::int64_t> row_list, bool use_row_list);

}  // namespace isologit::head
