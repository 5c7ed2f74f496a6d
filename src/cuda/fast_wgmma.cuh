// The fast arithmetic by wgmma (sm_90a): the bits of fast.cuh, for many rows.
//
// Chains of 64 of the depth are of four multiplications, of which each takes the same 16 elements as there, at the same
// places: those that follow one another. The first begins a sum at 0, and chains are added in their order. So bits are
// the same where wgmma sums 16 products as mma.sync does, which NVIDIA does not say: wgmma_self_test.cuh looks, and
// only devices that pass may use this.
//
// A block owns 128 weight and 128 hidden rows, a warpgroup half of the former. Both pass through shared memory in rows
// of 128 bytes, swizzled, 64 of the depth at a time. A chain is added while the next one runs in other registers. ptxas
// follows that within four chains and no further: with products under way from one pass of the loop to the next it
// serializes all (C7514). So chains come in fours, the last of zeros if need be, and every fourth is waited for.
//
// Predicted: 2 rows vocab size / the rate of bf16 products, 989 10^12 a second on an H100: 1.3 ms for 1024 rows of
// V=151936, H=4096; but of shared memory 96 bytes a clock are read beside and 64 written, of 128: 1.6 ms. Two warps a
// scheduler issue 1640 instructions in the 2048 clocks of four chains, 512 of them additions. Not measured: it has not
// run on a device.
#pragma once

#include "cuda/fast.cuh"

namespace isologit::detail::cuda {

// Begins the products of a chain from 0 on, of swizzled rows at these addresses: groups of 8 rows of 128 bytes, where
// 16 of the depth are 2 units of an address.
template <class E, class Block, class C>
ISOLOGIT_DEVICE void begin_wgmma_chain(Block& block, int warp, C chain_of, std::uint32_t weight_at,
                                       std::uint32_t hidden_at) {
  const std::uint64_t weight = descriptor(weight_at, 16, 8 * 128, Swizzle::k128);
  const std::uint64_t hidden = descriptor(hidden_at, 16, 8 * 128, Swizzle::k128);
  block.begin_products(warp);
  block.template wgmma_f32<E, true>(warp, chain_of, weight, hidden);
  ISOLOGIT_UNROLL
  for (int i = 1; i < kChain / 16; ++i) {
    block.template wgmma_f32<E, false>(warp, chain_of, weight + 2 * i, hidden + 2 * i);
  }
  block.end_products(warp);
}

template <class BlockType, class E>
struct FastWgmma {
  using Block = BlockType;
  using Args = Product;
  static constexpr bool kByWgmma = true;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kWeightRows = 16 * kWarps;
  static constexpr int kHiddenRows = 128;
  static constexpr int kSums = kHiddenRows / 2;  // of a thread
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kStages = 6;
  static constexpr int kAhead = kStages - 2;  // one stage is still read when the next one's copies begin
  static constexpr int kDepth = kChain;       // of a stage
  static constexpr int kTogether = 4;         // stages between two times that no products are under way
  static constexpr int kRowsAtATime = Block::kThreads / 8;
  static constexpr int kWeightCopies = kWeightRows / kRowsAtATime;
  static constexpr int kHiddenCopies = kHiddenRows / kRowsAtATime;

  struct Stage {  // piece i of row r, 16 bytes, lies at i ^ r % 8
    Sixteen weight[kWeightRows][8];
    Sixteen hidden[kHiddenRows][8];
  };
  struct Shared {
    alignas(1024) Stage stage[kStages];
  };
  struct Lane {
    float chain[2][kSums], total[kSums];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int row_block, int tile) {
    typename Block::template PerThread<Lane> state;
    const int row0 = row_block * kHiddenRows;
    const int v0 = tile * kWeightRows;
    const int stages = (p.depth / kDepth + kTogether - 1) / kTogether * kTogether;
    ISOLOGIT_UNROLL
    for (int s = 0; s < kAhead; ++s) fetch(block, shared, p, v0, row0, s, stages);
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int i = 0; i < kSums; ++i) state(warp, lane).total[i] = 0.0F;
      });
    });
    ISOLOGIT_ROLLED
    for (int stage = 0; stage < stages; stage += kTogether) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        begin_chain(block, shared, state, p, v0, row0, stage + i, stages, i % 2);
        if (i > 0) end_chain<1>(block, state, (i - 1) % 2);
      }
      end_chain<0>(block, state, (kTogether - 1) % 2);
    }
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { finish(state(warp, lane), p, v0 + 16 * warp, row0, lane); });
    });
  }

 private:
  // The products of a stage begin.
  template <class State>
  ISOLOGIT_DEVICE static void begin_chain(Block& block, Shared& shared, State& state, const Product& p, int v0,
                                          int row0, int stage, int stages, int which) {
    block.template wait<kAhead - 1>();
    block.publish_copies();
    block.sync();  // this stage is there for all, and all are done with the one before the last
    fetch(block, shared, p, v0, row0, stage + kAhead, stages);
    const Stage& from = shared.stage[stage % kStages];
    block.each_warp([&](int warp) {
      begin_wgmma_chain<E>(
          block, warp, [&](int lane) -> float* { return state(warp, lane).chain[which]; },
          block.address(from.weight[warp / 4 * 64]), block.address(from.hidden));
    });
  }

  // When the products of so many stages are under way the chain is there and is added.
  template <int UNDER_WAY, class State>
  ISOLOGIT_DEVICE static void end_chain(Block& block, State& state, int which) {
    block.each_warp([&](int warp) {
      block.template wait_products<UNDER_WAY>(warp);
      block.each_lane([&](int lane) {
        Lane& own = state(warp, lane);
        block.template hold<kSums>(own.chain[which]);
        ISOLOGIT_UNROLL
        for (int i = 0; i < kSums; ++i) own.total[i] = own.total[i] + own.chain[which][i];
      });
    });
  }

  // Begins the copy of a stage, of zeros past the depth; a group is ended also where there is none, so that they can be
  // counted. A thread copies the same piece of several rows.
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, const Product& p, int v0, int row0, int stage,
                                    int stages) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (stage < stages) {
          fetch_weight(block, shared.stage[stage % kStages], p, v0, stage * kDepth, 32 * warp + lane);
          fetch_hidden(block, shared.stage[stage % kStages], p, row0, stage * kDepth, 32 * warp + lane);
        }
        block.end_group();
      });
    });
  }

  // Past the last row it copies one before it again: what becomes of that is not stored.
  ISOLOGIT_DEVICE static void fetch_weight(Block& block, Stage& to, const Product& p, int v0, int k0, int thread) {
    const int own = thread % 8;
    const int k = k0 + 8 * own;
    const int first = v0 + thread / 8;
    const auto* from =
        static_cast<const typename E::Bits*>(p.weight) + p.row_or_last(first) * p.weight_stride + (k < p.size ? k : 0);
    ISOLOGIT_UNROLL
    for (int j = 0; j < kWeightCopies; ++j) {
      const int row = kRowsAtATime * j + thread / 8;
      block.copy_or_zero(&to.weight[row][own ^ row % 8], from, k < p.size);
      if (first + kRowsAtATime * (j + 1) < p.vocab) from += kRowsAtATime * p.weight_stride;
    }
  }
  ISOLOGIT_DEVICE static void fetch_hidden(Block& block, Stage& to, const Product& p, int row0, int k0, int thread) {
    const int own = thread % 8;
    const int k = k0 + 8 * own;
    const int first = row0 + thread / 8;
    const std::uint32_t* from =
        p.words + static_cast<std::int64_t>(first < p.rows ? first : 0) * (p.depth / 2) + (k < p.depth ? k / 2 : 0);
    ISOLOGIT_UNROLL
    for (int j = 0; j < kHiddenCopies; ++j) {
      const int row = kRowsAtATime * j + thread / 8;
      block.copy_or_zero(&to.hidden[row][own ^ row % 8], from, k < p.depth);
      if (first + kRowsAtATime * (j + 1) < p.rows) from += kRowsAtATime * (p.depth / 2);
    }
  }

  ISOLOGIT_DEVICE static void finish(const Lane& own, const Product& p, int v0, int row0, int lane) {
    ISOLOGIT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      const int v = v0 + 8 * (i / 2 % 2) + (lane >> 2);
      const int row = row0 + 8 * (i / 4) + 2 * (lane & 3) + i % 2;
      store_fast(p, row, v, own.total[i]);
    }
  }
};

}  // namespace isologit::detail::cuda
