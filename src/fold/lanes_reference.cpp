// The same functions by their definitions, one logit at a time. It has no f64 sums: the reference takes all of them in
// exact arithmetic.
#include <cmath>
#include <limits>

#include "exact/elementary.hpp"
#include "fold/lanes.hpp"

namespace isologit::fold {
namespace {

Scan scan(const float* logits, std::int64_t count) {
  Scan result{-std::numeric_limits<float>::infinity(), false, 0};
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) result.has_nan = true;
    if (logits[i] > -std::numeric_limits<float>::infinity()) ++result.above_nothing;
    if (logits[i] > result.greatest) result.greatest = logits[i];
  }
  return result;
}

std::int64_t count_above(const float* logits, std::int64_t count, float threshold, bool or_equal) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    total += logits[i] > threshold || (or_equal && logits[i] == threshold);
  }
  return total;
}

bool any_not_below(const float* logits, std::int64_t count, float threshold) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!(logits[i] < threshold)) return true;
  }
  return false;
}

void softcap(float* logits, std::int64_t count, float cap) {
  for (std::int64_t i = 0; i < count; ++i) logits[i] = static_cast<float>(exact::softcap(logits[i], cap, exact::kF32));
}

std::int64_t gumbel_hits(const Draw& draw, const float* logits, std::int64_t first_id, std::int64_t count, float, float,
                         Hit* hits) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity()) {
      hits[found++] = {static_cast<std::int32_t>(i), draw_word(draw, first_id + i, Word::first)};
    }
  }
  return found;
}

constexpr Lanes kLanes{scan, nullptr, count_above, any_not_below, softcap, gumbel_hits};

}  // namespace

const Lanes& reference_lanes() { return kLanes; }

}  // namespace isologit::fold
