// The reference: each logit by the definition, each sum of exponentials in ball arithmetic, each derivative in multiple
// precision. Nothing here is fast, and everything else equals it. Its loops are those of kernels/fold_loops.hpp by
// their definitions, one logit at a time, without f64 sums: it takes all of them in exact arithmetic.
#include <cmath>
#include <cstdint>
#include <limits>

#include "exact/elementary.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

Scan scan(const float* logits, std::int64_t count) {
  Scan result{-std::numeric_limits<float>::infinity(), false, 0};
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) result.has_nan = true;
    if (logits[i] > -std::numeric_limits<float>::infinity()) ++result.above_minus_inf;
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

std::int64_t log_softmax(const float*, std::int64_t count, float, const Excess&, float*, std::int32_t* open) {
  for (std::int64_t i = 0; i < count; ++i) open[i] = static_cast<std::int32_t>(i);
  return count;
}

constexpr FoldLoops kFoldLoops{scan,    nullptr,     nullptr,     count_above, any_not_below,
                               softcap, gumbel_hits, log_softmax, nullptr};

class Reference final : public Target {
 public:
  using Target::Target;
  static constexpr TileShape kShape = k_reference_shape;

  std::size_t prepared_bytes(std::int64_t, std::int64_t) const override { return 0; }
  std::size_t scratch_bytes(std::int64_t, std::int64_t) const override { return 0; }
  void prepare(const MatrixView&, std::int64_t, std::int64_t, std::int64_t, void*) const override {}

  void logits(const Block& block, const WeightTile& tile, float* logits, void*, Counts&) const override {
    for (std::int64_t r = 0; r < block.rows; ++r) {
      for (std::int64_t j = 0; j < tile.count; ++j) logits[r * tile_vocab() + j] = exact_logit(block, r, tile, j);
    }
  }
  std::int64_t multiply_adds(std::int64_t) const override { return 0; }
};

}  // namespace

const Target& reference_target(const Entry& entry) {
  return only<Reference, k_reference_shape>(entry, {kFoldLoops, nullptr, nullptr});
}

}  // namespace isologit::detail::kernels
