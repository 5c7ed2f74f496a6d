// Of attention whose keys are split.
#pragma once

#include "cuda/attention_end.cuh"

namespace isologit::detail::cuda {

// Adds up what the splits of a tile of rows have left, and ends the rows. A block a tile of rows.
template <class BlockType, int ROWS, int DIM>
struct Merge {
  using Block = BlockType;
  using Args = AttentionRequest;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const AttentionRequest& p, int index, int) {
    const RowTile rows = row_tile<ROWS>(p, index);
    const auto* parts =
        static_cast<const Partial<ROWS, DIM>*>(p.partials) + static_cast<std::int64_t>(index) * p.splits;
    block.each_warp([&](int warp) {
      ISOLOGIT_ROLLED
      for (int row = warp; row < rows.rows; row += Block::kWarps) {
        block.each_lane([&](int lane) { end_row(p, rows, parts, row, lane); });
      }
    });
  }

 private:
  ISOLOGIT_DEVICE static void end_row(const AttentionRequest& p, const RowTile& rows, const Partial<ROWS, DIM>* parts,
                                      int row, int lane) {
    int scale = kNoScale;
    std::uint32_t greatest_key = 0;
    for (int s = 0; s < p.splits; ++s) {
      scale = parts[s].scale[row] > scale ? parts[s].scale[row] : scale;
      greatest_key = greatest_of(greatest_key, parts[s].greatest_key);
    }
    double weight = 0.0;
    for (int s = 0; s < p.splits; ++s) weight += parts[s].weight[row] * rescaling(parts[s].scale[row], scale);
    const RowEnd end = row_end(p, weight, parts[0].q_length[row], greatest_key, rows.seen_by(p, row),
                               sink_of(p, rows.head_of(p, row)));
    const std::int64_t to = p.y.rows.offset_of(rows.row_of(p, row));
    ISOLOGIT_ROLLED
    for (int d = lane; d < p.values.dim; d += 32) {
      double sum = 0.0;
      std::uint32_t greatest = 0;
      for (int s = 0; s < p.splits; ++s) {
        sum += parts[s].sums[row][d] * rescaling(parts[s].scale[row], scale);
        greatest = greatest_of(greatest, parts[s].greatest_value[d]);
      }
      store_result(p.y.data, p.y.type, to + d, attended(sum, end, greatest, p.y.type));
    }
  }
};

}  // namespace isologit::detail::cuda
