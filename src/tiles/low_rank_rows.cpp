#include "tiles/low_rank_rows.hpp"

#include "exact/element.hpp"

namespace isologit::detail::tiles {

void LowRankRows::resize(std::int64_t rows, std::int64_t rank) {
  const auto count = static_cast<std::size_t>(rank == 0 ? 0 : rows);
  factors_.resize(count);
  near_.resize(count * static_cast<std::size_t>(rank));
  rows_.resize(count);
}

void LowRankRows::prepare(const Lora& lora, const MatrixView& hidden, std::int64_t row, std::int64_t index) {
  if (rows_.empty()) return;
  const auto at = static_cast<std::size_t>(index);
  factors_[at] = exact::low_rank_factors(lora, exact::row_data(hidden, row), hidden.dtype);
  rows_[at] = kernels::low_rank_row(factors_[at], near_.data() + index * lora.a.rows);
}

}  // namespace isologit::detail::tiles
