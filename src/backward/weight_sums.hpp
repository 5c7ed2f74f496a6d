// dweight and dbias: for one chunk of the vocabulary after the other, sums over all rows, each element finished and
// written once.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "backward/output.hpp"
#include "backward/products.hpp"
#include "backward/upstream.hpp"
#include "base/aligned.hpp"
#include "exact/superaccumulator.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::backward {

class WeightSums {
 public:
  // A target without loops has every element made by exact accumulation. Throws std::bad_alloc.
  WeightSums(const Head& head, const BackwardRequest& request, std::span<const ActiveRow> rows,
             const kernels::Target& target, bool exact, int threads);

  // dz [row][kChunk] of the ids of one chunk. Different workers may take different chunks at once.
  void add_chunk(int worker, std::int64_t chunk, const float* dz);

  std::int64_t fallbacks() const { return fallbacks_; }

 private:
  struct Accumulators {
    std::vector<PackedRows> pieces;
    std::vector<double> high;  // [kChunk][panel columns]; [kChunk][kernels::kMostColumns] where not exact
    std::vector<double> low;
    std::vector<double> squares;  // of dz, summed over rows, for each id
  };

  std::int64_t depth_pieces() const;
  void pack_hidden(int threads);
  void add_fast(Accumulators& own, std::int64_t first, std::int64_t ids);
  void add_exact(Accumulators& own, std::int64_t first, std::int64_t ids, const float* dz);
  void add_by_definition(std::int64_t id, std::int64_t column, const float* dz);
  void add_bias(std::int64_t first, std::int64_t ids, const float* dz);
  PackedPanel panel(std::int64_t piece, std::int64_t index) const;  // not exact

  const BackwardRequest& request_;
  std::span<const ActiveRow> rows_;
  const kernels::BackwardLoops* loops_;
  const kernels::PartLoops* part_loops_;  // of fast sums
  bool exact_;
  std::int64_t vocab_;
  std::int64_t columns_;  // H
  Output weight_;
  Output bias_;
  base::AlignedBuffer hidden_;   // panels, [piece][panel][kernels::kDepth * panel columns]; doubles where exact
  std::vector<float> greatest_;  // of each panel
  std::vector<double> reaches_;  // roots of the sums of squares of each column of hidden, exact only; whole panels
  std::vector<Accumulators> workers_;
  std::atomic<std::int64_t> fallbacks_ = 0;
};

}  // namespace isologit::detail::backward
