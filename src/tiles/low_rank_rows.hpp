// The factors of a low-rank addition for the rows of a block.
#pragma once

#include <vector>

#include "kernels/low_rank.hpp"

namespace isologit::detail::tiles {

class LowRankRows {
 public:
  // For `rows` rows and a of `rank` rows. Throws std::bad_alloc.
  void resize(std::int64_t rows, std::int64_t rank);

  // Row `index` from row `row` of hidden; nothing to do at rank 0. Different rows may be prepared concurrently.
  void prepare(const Lora& lora, const MatrixView& hidden, std::int64_t row, std::int64_t index);

  // Null at rank 0.
  const kernels::LowRankRow* data() const { return rows_.empty() ? nullptr : rows_.data(); }

 private:
  std::vector<std::vector<exact::LowRankFactor>> factors_;
  std::vector<double> near_;
  std::vector<kernels::LowRankRow> rows_;
};

}  // namespace isologit::detail::tiles
