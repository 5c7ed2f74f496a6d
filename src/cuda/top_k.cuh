// The first ids of a row in descending order: a block a row. The key of the last of them is found a byte at a time, by
// counting; keys differ, so that as many are no less than it as are wanted, and each finds its place by counting again.
// The order in which threads gather them shows in nothing.
// Predicted: up to nine reads of the row, of which most hit the caches. Measured: not yet.
#pragma once

#include "cuda/block.cuh"
#include "cuda/order.cuh"
#include "cuda/row_sum.cuh"

namespace isologit::detail::cuda {

inline constexpr int kMostTopK = 1024;

struct TopKs {
  WholeRows rows;
  int k;              // 1 to kMostTopK
  std::int64_t* ids;  // [all rows, k]; past the support's end -1
  float* logits;      // the same; -inf
};

template <class BlockType>
struct TopK {
  using Block = BlockType;
  using Args = TopKs;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kBytes = 8;  // of a key
  static_assert(Block::kThreads == 256);

  struct Shared {
    std::uint64_t keys[kMostTopK];
    std::uint32_t count[256];  // of keys that begin alike, by their next byte
    std::uint32_t gathered;
  };
  // What is known of the last key: its first bytes, and how many of those that begin so are wanted.
  struct Search {
    std::uint64_t prefix, least;  // least: the last key, or no more than it and above all that are not wanted
    std::uint32_t wanted;
    bool found;
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const TopKs& p, int row, int) {
    typename Block::template PerThread<Search> state;
    each_thread(block, [&](int warp, int lane) {
      state(warp, lane) = {0, 0, static_cast<std::uint32_t>(p.k), false};
      if (warp == 0 && lane == 0) shared.gathered = 0;
    });
    for (int byte = kBytes - 1; byte >= 0; --byte) {
      each_thread(block, [&](int warp, int lane) { shared.count[32 * warp + lane] = 0; });
      block.sync();
      each_thread(block, [&](int warp, int lane) {
        if (!state(warp, lane).found) count(block, shared, p, row, byte, state(warp, lane).prefix, 32 * warp + lane);
      });
      block.sync();
      each_thread(block, [&](int warp, int lane) {
        if (!state(warp, lane).found) narrow(shared, state(warp, lane), byte);
      });
      block.sync();
    }
    each_thread(block, [&](int warp, int lane) {
      for (int v = 32 * warp + lane; v < p.rows.vocab; v += Block::kThreads) {
        const std::uint64_t key = p.rows.key(row, v);
        if (key >= state(warp, lane).least) shared.keys[block.take(shared.gathered)] = key;
      }
    });
    block.sync();
    each_thread(block, [&](int warp, int lane) {
      for (int i = 32 * warp + lane; i < p.k; i += Block::kThreads) write(shared, p, row, i);
    });
  }

 private:
  template <class F>
  ISOLOGIT_DEVICE static void each_thread(Block& block, F f) {
    block.each_warp([&](int warp) { block.each_lane([&](int lane) { f(warp, lane); }); });
  }

  ISOLOGIT_DEVICE static void count(Block& block, Shared& shared, const TopKs& p, int row, int byte,
                                    std::uint64_t prefix, int thread) {
    for (int v = thread; v < p.rows.vocab; v += Block::kThreads) {
      const std::uint64_t key = p.rows.key(row, v);
      const std::uint64_t first = key >> 8 * byte;
      if (key != 0 && first >> 8 == prefix) block.count(shared.count[first & 0xFFU]);
    }
  }

  ISOLOGIT_DEVICE static void narrow(const Shared& shared, Search& own, int byte) {
    for (int next = 255; next >= 0; --next) {
      const std::uint32_t here = shared.count[next];
      if (here >= own.wanted) {
        own.prefix = own.prefix << 8 | static_cast<std::uint64_t>(next);
        own.least = own.prefix << 8 * byte;
        own.found = here == own.wanted;
        return;
      }
      own.wanted -= here;
    }
    own.least = 1;  // the support has fewer ids than are wanted
    own.found = true;
  }

  ISOLOGIT_DEVICE static void write(const Shared& shared, const TopKs& p, int row, int i) {
    const std::int64_t first = (p.rows.first_row + row) * p.k;
    const int gathered = static_cast<int>(shared.gathered);
    if (i >= gathered) {
      p.ids[first + i] = -1;
      p.logits[first + i] = minus_infinity();
      return;
    }
    const std::uint64_t key = shared.keys[i];
    int place = 0;
    for (int j = 0; j < gathered; ++j) place += shared.keys[j] > key;
    p.ids[first + place] = id_of_key(key);
    p.logits[first + place] = p.rows.logit(row, id_of_key(key));
  }
};

}  // namespace isologit::detail::cuda
