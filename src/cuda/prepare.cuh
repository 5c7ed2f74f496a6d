// Hidden rows made ready once for all weight rows: scaled by 2^kHiddenBias into f64, whose high words (and, of f32
// elements, low words) are stored, or packed, as they are, and padded with zeros; and their facts. One block a row.
// Measured: 0.009 ms for up to 64 rows of H=4096, 0.018 for 1024 (H200, 2026-11-26).
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

struct Preparation {
  const void* hidden;
  std::int64_t hidden_stride;  // in elements
  int type;
  int rows, size, depth;
  bool packed;  // elements of 16 bits
  std::uint32_t* words;
  std::int64_t plane;
  RowFacts* facts;
};

template <class BlockType>
struct Prepare {
  using Block = BlockType;
  using Args = Preparation;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr bool kLetsNextBegin = true;

  struct Found {
    double squares;
    int lowest;
    int unused;
  };
  struct Shared {
    Found found[Block::kWarps];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Preparation& p, int row, int) {
    block.each_warp([&](int warp) {
      typename Block::template PerLane<Found> found;
      block.each_lane([&](int lane) { found(lane) = fill(p, row, 32 * warp + lane); });
      block.reduce([&](int lane) -> Found& { return found(lane); }, 1, 32,
                   [](Found& to, const Found& from) { merge_found(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.found[warp] = found(lane);
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp != 0 || lane != 0 || row >= p.rows) return;
        Found all = shared.found[0];
        for (int w = 1; w < Block::kWarps; ++w) merge_found(all, shared.found[w]);
        // size roundings of 2^-53 each, size < 2^20
        p.facts[row] = {sqrt(all.squares) * (1.0 + 0x1p-30), all.lowest, 0};
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static void merge_found(Found& to, const Found& from) {
    to.squares += from.squares;
    to.lowest = from.lowest < to.lowest ? from.lowest : to.lowest;
  }

  ISOLOGIT_DEVICE static Found fill(const Preparation& p, int row, int thread) {
    Found found = {0.0, kNoBit, 0};
    const std::int64_t first = static_cast<std::int64_t>(row) * p.depth;
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (int k = thread; k < p.depth; k += Block::kThreads) {
      const bool is_there = row < p.rows && k < p.size;
      const std::int64_t from = row * p.hidden_stride + k;
      const double value = is_there ? static_cast<double>(element_value(p.hidden, p.type, from)) : 0.0;
      found.squares += value * value;  // below 2^257
      const int lowest = lowest_bit(value);
      found.lowest = lowest < found.lowest ? lowest : found.lowest;
      if (p.packed) {
        auto* packed = reinterpret_cast<std::uint16_t*>(p.words);
        packed[first + k] = is_there ? static_cast<const std::uint16_t*>(p.hidden)[from] : std::uint16_t{0};
        continue;
      }
      const auto bits = bit_cast<std::uint64_t>(value * power_of_two(kHiddenBias));
      p.words[first + k] = static_cast<std::uint32_t>(bits >> 32);
      if (p.type == kF32) p.words[p.plane + first + k] = static_cast<std::uint32_t>(bits);
    }
    return found;
  }
};

}  // namespace isologit::detail::cuda
