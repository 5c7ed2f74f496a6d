// The fold behind rank: how many logits stand before the target in descending order, equal ones by ascending id.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fold/lanes.hpp"

namespace isologit::fold {

struct Rank {
  float target = 0;  // the target's logit, known before the first tile
  std::int64_t target_id = 0;
  std::int64_t before = 0;

  void absorb(const Lanes& lanes, const float* logits, std::int64_t count, std::int64_t first_id) {
    // Ids below the target's stand before it when equal as well.
    const std::int64_t lower_ids = std::clamp<std::int64_t>(target_id - first_id, 0, count);
    before += lanes.count_above(logits, lower_ids, target, true);
    before += lanes.count_above(logits + lower_ids, count - lower_ids, target, false);
  }
  void merge(const Rank& other) { before += other.before; }
};

}  // namespace isologit::fold
