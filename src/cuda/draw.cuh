// The id of each stretch of a row with the greatest z - ln(-ln u) among what a cut keeps: a block a stretch. In f64 the
// numbers of all ids are known to 2^-30, which leaves one or two; of these they are made again, in pairs of doubles.
// Predicted: for each id two fifths of a Philox and some 90 instructions in f64, a quarter of fold.cuh. Measured: not
// yet.
#pragma once

#include "cuda/cut.cuh"
#include "cuda/gumbel.cuh"

namespace isologit::detail::cuda {

struct Drawing {
  WholeRows rows;
  int stretches;
  const std::uint64_t* least;  // [rows], as Cut leaves it; null: nothing is cut
  PerRow<std::uint64_t> seeds, sequence_ids;
  PerRow<std::uint32_t> positions;
  Contender* found;  // [rows, stretches]
};

template <class BlockType>
struct Draw {
  using Block = BlockType;
  using Args = Drawing;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr double kNoScore = -0x1p1000;
  static_assert(Block::kThreads * kPerThread == kStretch && kPerThread % 4 == 0);

  struct Shared {
    float top[Block::kWarps];
    double best[Block::kWarps];
    Contender found[Block::kWarps];
  };
  struct Lane {
    float z[kPerThread];  // of ids that follow one another; -inf of what takes no part
    double score[kPerThread];
    float top;
    double best;
    Contender found;
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Drawing& p, int stretch, int row) {
    const std::int64_t at = p.rows.first_row + row;
    const DrawKey key = {p.seeds.of(at, 0), p.sequence_ids.of(at, 0), p.positions.of(at, 0)};
    typename Block::template PerThread<Lane> state;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { load(state(warp, lane), p, row, first_of(stretch, 32 * warp + lane)); });
      block.reduce([&](int lane) -> float& { return state(warp, lane).top; }, 1, 32,
                   [](float& to, float from) { to = to > from ? to : from; });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.top[warp] = state(warp, lane).top;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { score(state(warp, lane), shared, key, first_of(stretch, 32 * warp + lane)); });
      block.reduce([&](int lane) -> double& { return state(warp, lane).best; }, 1, 32,
                   [](double& to, double from) { to = to > from ? to : from; });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.best[warp] = state(warp, lane).best;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane(
          [&](int lane) { contend(state(warp, lane), shared, p, key, row, first_of(stretch, 32 * warp + lane)); });
      block.reduce([&](int lane) -> Contender& { return state(warp, lane).found; }, 1, 32,
                   [](Contender& to, const Contender& from) { merge(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.found[warp] = state(warp, lane).found;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp != 0 || lane != 0) return;
        Contender all = shared.found[0];
        for (int w = 1; w < Block::kWarps; ++w) merge(all, shared.found[w]);
        p.found[static_cast<std::int64_t>(row) * p.stretches + stretch] = all;
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static int first_of(int stretch, int thread) { return stretch * kStretch + thread * kPerThread; }

  ISOLOGIT_DEVICE static void load(Lane& own, const Drawing& p, int row, int first) {
    const std::uint64_t least = p.least == nullptr ? 1 : p.least[row];
    own.top = minus_infinity();
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const int v = first + i;
      const bool takes = v < p.rows.vocab && p.rows.key(row, v) >= least;
      const float z = takes ? p.rows.logit(row, v) : minus_infinity();
      own.z[i] = is_finite(z) ? z : minus_infinity();  // rows with NaN or +inf draw nothing
      own.top = own.z[i] > own.top ? own.z[i] : own.top;
    }
  }

  // z - the stretch's greatest z + g, within kNearSlack where it may win.
  ISOLOGIT_DEVICE static void score(Lane& own, const Shared& shared, const DrawKey& key, int first) {
    float top = shared.top[0];
    for (int w = 1; w < Block::kWarps; ++w) top = shared.top[w] > top ? shared.top[w] : top;
    own.best = kNoScore;
    ISOLOGIT_UNROLL
    for (int half = 0; half < kPerThread / 4; ++half) {
      const DrawWords words = draw_words(key, static_cast<std::uint32_t>(first) / 4 + half);
      ISOLOGIT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int i = 4 * half + j;
        const double below = static_cast<double>(top) - static_cast<double>(own.z[i]);
        own.score[i] = below <= kNeverWins ? gumbel_near(words.bits_of(j)) - below : kNoScore;
        own.best = own.score[i] > own.best ? own.score[i] : own.best;
      }
    }
  }

  ISOLOGIT_DEVICE static void contend(Lane& own, const Shared& shared, const Drawing& p, const DrawKey& key, int row,
                                      int first) {
    double best = shared.best[0];
    for (int w = 1; w < Block::kWarps; ++w) best = shared.best[w] > best ? shared.best[w] : best;
    std::uint32_t near = 0;
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (own.score[i] > kNoScore && own.score[i] >= best - 2 * kNearSlack) near |= 1U << i;
    }
    own.found = nobody();
    ISOLOGIT_ROLLED
    for (int i = 0; near >> i != 0; ++i) {
      if ((near >> i & 1U) == 0) continue;
      const int id = first + i;
      const std::uint64_t bits = draw_words(key, static_cast<std::uint32_t>(id) / 4).bits_of(id % 4);
      merge(own.found, Contender{gumbel(bits), p.rows.logit(row, id), id, bits, 0, 0});
    }
  }
};

}  // namespace isologit::detail::cuda
