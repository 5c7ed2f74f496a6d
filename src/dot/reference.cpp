// The reference: each logit by the definition, each sum of exponentials in ball arithmetic. Nothing here is fast, and
// everything else equals it.
#include <cstdint>

#include "dot/dot.hpp"

namespace isologit::dot {
namespace {

class Reference final : public Kernel {
 public:
  using Kernel::Kernel;
  std::int64_t block_rows() const override { return 64; }
  std::int64_t tile_vocab() const override { return 32; }
  std::size_t prepared_bytes(std::int64_t, std::int64_t) const override { return 0; }
  std::size_t scratch_bytes(std::int64_t, std::int64_t) const override { return 0; }
  void prepare(const MatrixView&, std::int64_t, std::int64_t, std::int64_t, void*) const override {}

  void logits(const Block& block, const WeightTile& tile, float* logits, void*, Counts&) const override {
    for (std::int64_t r = 0; r < block.rows; ++r) {
      for (std::int64_t j = 0; j < tile.count; ++j) logits[r * tile_vocab() + j] = exact_logit(block, r, tile, j);
    }
  }
  std::int64_t multiply_adds(std::int64_t) const override { return 0; }

  const fold::Lanes& lanes() const override { return fold::reference_lanes(); }
};

}  // namespace

const Kernel& reference_kernel(const Entry& entry) {
  static const Reference kernel(entry);
  return kernel;
}

}  // namespace isologit::dot
