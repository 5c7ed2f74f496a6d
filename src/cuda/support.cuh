// Which ids take part in a row: those that a mask leaves, of lists those that are kept and not banned.
//
// Lists are searched where they lie, for each id anew: a dozen loads from the caches beside some 350 instructions that
// a logit takes, and no memory for a mask of all rows. Measured: not yet.
#pragma once

#include "cuda/bits.cuh"

namespace isologit::detail::cuda {

// Those of row i are ids[offsets[i]] to ids[offsets[i + 1] - 1], ascending; offsets null: no lists.
struct IdLists {
  const std::int64_t* offsets;
  const std::int64_t* ids;

  ISOLOGIT_DEVICE bool hold(std::int64_t row, std::int64_t id) const {
    std::int64_t low = offsets[row];
    std::int64_t high = offsets[row + 1];
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (ids[middle] < id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < offsets[row + 1] && ids[low] == id;
  }
};

struct Support {
  const std::uint8_t* mask;  // not 0 where an id stays; null: all
  std::int64_t mask_stride;  // 0: one mask for all rows
  IdLists kept, banned;

  bool is_everything() const { return mask == nullptr && kept.offsets == nullptr && banned.offsets == nullptr; }
  // row: among all rows
  ISOLOGIT_DEVICE bool has(std::int64_t row, std::int64_t id) const {
    if (mask != nullptr && mask[row * mask_stride + id] == 0) return false;
    if (kept.offsets != nullptr && !kept.hold(row, id)) return false;
    return banned.offsets == nullptr || !banned.hold(row, id);
  }
};

}  // namespace isologit::detail::cuda
