// Given logits as a maker of tiles: the place of what computes them is taken by what copies them, so that all that is
// made of tiles runs over given logits as it does over computed ones.
#pragma once

#include <cstdint>

#include "isologit/head.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::given {

// A target whose "hidden states" are the rows of logits.
class GivenTarget final : public kernels::Target {
 public:
  // With the loops of `other`.
  explicit GivenTarget(const kernels::Target& other);

  std::size_t prepared_bytes(std::int64_t, std::int64_t) const override { return 0; }
  std::size_t scratch_bytes(std::int64_t, std::int64_t) const override { return 0; }
  void prepare(const MatrixView&, std::int64_t, std::int64_t, std::int64_t, void*) const override {}
  void logits(const kernels::Block& block, const kernels::WeightTile& tile, float* logits, void*,
              kernels::Counts&) const override;
  std::int64_t multiply_adds(std::int64_t) const override { return 0; }
};

// The head of such a target: the vocabulary, and a weight that nobody reads.
Head head_of(const MatrixView& logits);

}  // namespace isologit::detail::given
