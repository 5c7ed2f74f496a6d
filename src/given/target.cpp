#include "given/target.hpp"

#include "given/row.hpp"

namespace isologit::detail::given {
namespace {

// Few rows at a time, so that each is read in long runs.
constexpr kernels::Entry kEntry{"given", "any", Arithmetic::exact, {8, kernels::kMostTile}, 1, nullptr, nullptr};

}  // namespace

GivenTarget::GivenTarget(const kernels::Target& other)
    : kernels::Target(kEntry, {other.fold_loops(), other.backward_loops()}) {}

void GivenTarget::logits(const kernels::Block& block, const kernels::WeightTile& tile, float* logits, void*,
                         kernels::Counts&) const {
  for (std::int64_t r = 0; r < block.rows; ++r) {
    copy_row(*block.hidden, block.row_ids[r], tile.first, tile.count, logits + r * tile_vocab());
  }
}

Head head_of(const MatrixView& logits) {
  Head head;
  head.vocab_size = logits.cols;
  return head;
}

}  // namespace isologit::detail::given
