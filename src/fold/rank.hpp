// The fold behind rank: how many logits stand before the target in descending order, equal ones by ascending id.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/fold_loops.hpp"

namespace isologit::detail::fold {

struct Rank {
  float target = 0;  // the target's logit, known before the first tile
  std::int64_t target_id = 0;
  std::int64_t before = 0;

  // With in_support, ids outside it hold -inf and do not count; only a target of -inf could take them for its equals.
  void absorb(const kernels::FoldLoops& loops, const float* logits, const std::uint8_t* in_support, std::int64_t count,
              std::int64_t first_id) {
    if (in_support != nullptr && target == -std::numeric_limits<float>::infinity()) {
      for (std::int64_t j = 0; j < count; ++j) {
        before += in_support[j] != 0 && (logits[j] > target || (logits[j] == target && first_id + j < target_id));
      }
      return;
    }
    // Ids below the target's stand before it when equal as well.
    const std::int64_t lower_ids = std::clamp<std::int64_t>(target_id - first_id, 0, count);
    before += loops.count_above(logits, lower_ids, target, true);
    before += loops.count_above(logits + lower_ids, count - lower_ids, target, false);
  }
  void merge(const Rank& other) { before += other.before; }
};

}  // namespace isologit::detail::fold
