// Logits of bf16 from products of digits (digits.cuh): nine sums of products of bytes, exact, by the integer tensor
// cores; or the six leading ones of them, which for results in bf16 nearly always suffice.
//
// A block owns 16 weight rows a warp and 8 NT hidden rows; 64 of the depth of both pass through shared memory at a
// time, kStages deep, by copies that run beside the arithmetic. Hidden digits are made before. Of the weight a lane
// makes them as they pass: w 2^(148 - window) + 3 2^22 is an f32 number whose low 23 bits are the whole number plus
// 2^22, so its three low bytes are digits without a sign, and 2^22 times the sum of the hidden row's whole numbers is
// taken from the result. The window is guessed from a part of the row, with a doubling in hand; eight elements of which
// one may be more than its whole number are noted, and looked at again when the products are done.
//
// Sums of one weight of digits stay below 2^31 up to kMostDigitDepth. All of a logit is
// then one integer below 2^61 times a power of two, and the few products of elements outside the windows, added in f64
// with what each addition loses: if nothing is lost the rounding is right, else both ends of the bound must agree, or
// the logit stays open. Rows that are wild leave theirs open too: those tiles are made by f64 products (Staged, which
// looks for them).
//
// Of the leading products three orders are made, of digits i + j >= 2. So that as little as possible is left out, a
// weight's whole number is doubled, and all bits of its highest digit are used: U = 2 whole + 2^23 = u0 + 2^8 u1 + 2^16
// u2. With hidden digits h, what a term lacks is u0 (h0 + 2^8 h1) + 2^8 u1 h0. u1 is 128 + c, |c| <= 128, and the sum
// of h0 is known: that adds 2^15 of it. What is left is at most 2^15 |h0| + |h0 + 2^8 h1| u0 in each term, the bound
//   2^15 sum |h0| + (the greatest |h0 + 2^8 h1|) sum u0,
// and lowest digits are 0 but in one element of 40. Of normal rows of 4096 it is 2^-24 |h| |w|, where four products
// would leave 2^-16 and most results open: it must be small beside the 2^-8 of a 64th of that. Hidden rows tell in
// advance where more would stay open (heavy tails): blocks of them take all nine products. What stays open is settled
// one by one.
//
// Predicted: 18 rows vocab size / the rate of the integer products, by mma.sync 1.28 10^15 a second on an H100
// (measured, registers alone): 0.56 ms for 64 rows of V=151936, H=4096, 9 ms for 1024; and the read of the weight, 0.42
// ms. Measured (H100, 2026-11-27): 0.75 ms for 24 and 32 rows, 1.2 for 64, 16.5 for 1024, that is 620 10^12 operations
// a second. A step of a warp is 72 products and some 150 other instructions, most of which make digits; two warps a
// scheduler do not hide them. Tried: 8 warps a block, a tenth slower; digits of the weight made before, a block of it
// at a time, which takes 2 ms more for each 1024 rows. What helped: products of one sum never next to each other;
// copies whose addresses are not made anew; logits finished eight at a time, so that lists are walked once for them.
// Predicted of the leading products: six ninths of the time or, as three blocks fit a processor, down to a half; of
// normal rows 0.3 % stay open, half a nanosecond to two each. Not measured: they have not run on a device.
#pragma once

#include "cuda/digit_tile.cuh"

namespace isologit::detail::cuda {

template <class BlockType, int NT, bool LEADING>
struct Digits : DigitTile<BlockType, NT, LEADING, false, LEADING ? 3 : 4> {
  using Block = BlockType;
  using Tile = DigitTile<BlockType, NT, LEADING, false, LEADING ? 3 : 4>;
  using Shared = typename Tile::Shared;
  using A = typename Tile::A;
  struct Eight {
    std::uint32_t word[2];
  };
  struct B {
    Eight row[NT];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int row_block, int tile) {
    const int row0 = row_block * Tile::kHiddenRows;
    if (p.leading && Tile::are_leading_enough(block, p, row0) != LEADING) return;
    typename Block::template PerThread<typename Tile::Lane> state;
    const int v0 = Tile::first_weight_row(p, tile);
    const int stages = p.depth / Tile::kDepth;
    ISOLOGIT_UNROLL
    for (int s = 0; s < Tile::kStages - 1; ++s) Tile::fetch(block, shared, p, v0, row0, s, stages);
    block.each_warp([&](int warp) { Tile::begin(block, shared, state, p, v0, warp); });
    for (int stage = 0; stage < stages; ++stage) {
      block.template wait<Tile::kStages - 2>();
      block.sync();  // this stage is there for all, and all are done with the one before it
      Tile::fetch(block, shared, p, v0, row0, stage + Tile::kStages - 1, stages);
      block.each_warp([&](int warp) {
        ISOLOGIT_ROLLED
        for (int step = 0; step < Tile::kDepth / kStep; ++step) multiply(block, shared, state, stage, step, warp);
      });
    }
    block.template wait<0>();
    block.sync();
    block.each_warp([&](int warp) { Tile::finish(block, shared, state, p, warp, v0, row0); });
  }

 private:
  template <class State>
  ISOLOGIT_DEVICE static void multiply(Block& block, Shared& shared, State& state, int stage, int step, int warp) {
    const typename Tile::Stage& from = shared.stage[stage % Tile::kStages];
    typename Block::template PerLane<A> a;
    block.each_lane([&](int lane) { Tile::divide(shared, a(lane), from, state(warp, lane), stage, step, warp, lane); });
    // A digit of all hidden rows at a time: products that follow one another are of different sums.
    ISOLOGIT_UNROLL
    for (int j = 0; j < kDigits; ++j) {
      typename Block::template PerLane<B> b;
      block.each_lane([&](int lane) {
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          const Sixteen* row = from.hidden[j][step][8 * n + (lane >> 2)];
          b(lane).row[n] = reinterpret_cast<const Eight*>(row)[lane & 3];
        }
      });
      ISOLOGIT_UNROLL
      for (int i = Tile::kLeast > j ? Tile::kLeast - j : 0; i < kDigits; ++i) {
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          block.mma_bytes([&](int lane) -> std::int32_t* { return state(warp, lane).c[i + j - Tile::kLeast][n]; },
                          [&](int lane) -> const std::uint32_t* { return a(lane).digit[i]; },
                          [&](int lane) -> const std::uint32_t* { return b(lane).row[n].word; });
        }
      }
    }
  }
};

}  // namespace isologit::detail::cuda
