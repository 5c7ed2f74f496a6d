#include "given/row.hpp"

#include "exact/row.hpp"

namespace isologit::detail::given {

void copy_row(const MatrixView& logits, std::int64_t row, std::int64_t first, std::int64_t count, float* to) {
  const char* from = static_cast<const char*>(exact::row_data(logits, row)) +
                     first * static_cast<std::int64_t>(dtype_size(logits.dtype));
  exact::widen_row(from, logits.dtype, count, to);
}

}  // namespace isologit::detail::given
