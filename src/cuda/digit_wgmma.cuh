// Products of digits (digit_products.cuh) by wgmma, of devices of compute capability 9.0: the same sums, so the same
// bits.
//
// The block is one warpgroup. Digits of the weight are made in the registers from which they are multiplied, those of
// the hidden rows are read from shared memory as core matrices of 8 rows by 16 bytes: in the order in which they are
// prepared (digit_place) a plain copy makes these. While the products of a step run, a warp makes the weight's digits
// of the next step in other registers, which mma.sync cannot: it holds the warp up. A lane takes no digits of hidden
// rows from shared memory, 24 loads a step less.
//
// Predicted: 18 rows vocab size / 1979 10^12 a second, what an H100 SXM's tensor cores do in int8: 5.8 ms for 1024 rows
// of V=151936, H=4096, 3.8 by the six leading products. A step is nine (six) multiplications of 32 clocks a block, and
// some 120 other instructions a warp; of two (three) blocks a processor that is 576 clocks of the tensor cores and 240
// (360) of a scheduler, which go on side by side, so the former should decide; they read 64 of the 128 bytes a clock
// that shared memory gives. Of up to 32 rows the read of the weight decides, 0.42 ms. Not measured: it has not run on a
// device. As ptxas has it: nothing spills (of 64 hidden rows 238 registers, 168 by the leading products) and no
// multiplication is serialized.
#pragma once

#include "cuda/digit_tile.cuh"
#include "cuda/wgmma.cuh"

namespace isologit::detail::cuda {

template <class BlockType, int NT, bool LEADING>
struct DigitsWgmma : DigitTile<BlockType, NT, LEADING, true, LEADING && NT == 8 ? 3 : 4> {
  using Block = BlockType;
  using Tile = DigitTile<BlockType, NT, LEADING, true, LEADING && NT == 8 ? 3 : 4>;
  using Shared = typename Tile::Shared;
  static constexpr bool kByWgmma = true;
  static constexpr int kAhead = Tile::kStages - 2;  // one stage is still read when the next one's copies begin
  static constexpr int kSteps = Tile::kDepth / kStep;
  static_assert(Tile::kWarps == 4 && Block::kThreads % Tile::kHiddenRows == 0);

  // Hidden digits of a step lie by halves of 16 bytes (digit_place).
  static constexpr int kLeadingBytes = 16 * Tile::kHiddenRows, kStrideBytes = 128;

  struct Lane : Tile::Lane {
    typename Tile::A a[kSteps];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int row_block, int tile) {
    const int row0 = row_block * Tile::kHiddenRows;
    if (p.leading && Tile::are_leading_enough(block, p, row0) != LEADING) return;
    typename Block::template PerThread<Lane> state;
    const int v0 = Tile::first_weight_row(p, tile);
    const int stages = p.depth / Tile::kDepth;
    ISOLOGIT_UNROLL
    for (int s = 0; s < kAhead; ++s) Tile::fetch(block, shared, p, v0, row0, s, stages);
    block.each_warp([&](int warp) { Tile::begin(block, shared, state, p, v0, warp); });
    ISOLOGIT_ROLLED
    for (int stage = 0; stage < stages; ++stage) {
      block.template wait<kAhead - 1>();
      block.publish_copies();
      block.sync();  // this stage is there for all, and all are done with the one before the last
      Tile::fetch(block, shared, p, v0, row0, stage + kAhead, stages);
      block.each_warp([&](int warp) {
        ISOLOGIT_UNROLL
        for (int step = 0; step < kSteps; ++step) multiply(block, shared, state, stage, step, warp);
      });
    }
    block.each_warp([&](int warp) {
      block.template wait_products<0>(warp);
      block.each_lane([&](int lane) { block.template hold<Tile::kOrders * NT * 4>(state(warp, lane).c[0][0]); });
    });
    block.template wait<0>();
    block.sync();
    block.each_warp([&](int warp) { Tile::finish(block, shared, state, p, warp, v0, row0); });
  }

 private:
  // One step: digits are made while the products of the step before run, whose weight digits are in other registers.
  template <class State>
  ISOLOGIT_DEVICE static void multiply(Block& block, Shared& shared, State& state, int stage, int step, int warp) {
    const typename Tile::Stage& from = shared.stage[stage % Tile::kStages];
    block.each_lane([&](int lane) {
      Tile::divide(shared, state(warp, lane).a[step], from, state(warp, lane), stage, step, warp, lane);
    });
    block.each_lane([&](int lane) { block.template hold<4 * kDigits>(state(warp, lane).a[step].digit[0]); });
    block.begin_products(warp);
    ISOLOGIT_UNROLL
    for (int j = 0; j < kDigits; ++j) {
      const std::uint64_t b =
          descriptor(block.address(&from.hidden[j][step]), kLeadingBytes, kStrideBytes, Swizzle::kNone);
      ISOLOGIT_UNROLL
      for (int i = Tile::kLeast > j ? Tile::kLeast - j : 0; i < kDigits; ++i) {
        block.template wgmma_bytes<NT>(
            warp, [&](int lane) -> std::int32_t* { return state(warp, lane).c[i + j - Tile::kLeast][0]; },
            [&](int lane) -> const std::uint32_t* { return state(warp, lane).a[step].digit[i]; }, b);
      }
    }
    block.end_products(warp);
    block.template wait_products<1>(warp);  // those of the step before
  }
};

}  // namespace isologit::detail::cuda
