// The results of rows, from the sums of their stretches: a warp a row.
//
// lse = top + L and logprob = (z - top) - L, L = ln(1 + rest): the first term is exact as a pair of doubles and often a
// midpoint of two f32 numbers, L may be smaller by any factor, and then its sign decides. round_sum keeps both.
// Predicted: 2 us, and reading the sums. Measured: not yet.
#pragma once

#include "cuda/fold.cuh"
#include "cuda/share.cuh"
#include "cuda/summary.cuh"

namespace isologit::detail::cuda {

struct Finishing {
  int rows, stretches, vocab;
  std::int64_t first_row;
  const RowSum* sums;
  const RowSum* dropped;    // of the ids outside the support; null: there are none, or log_kept is not wanted
  const std::int64_t* ids;  // or null
  int ids_per_row;
  std::int64_t ignored;
  bool ignores_rows;
  const float* chosen;
  const std::uint32_t* before;  // [rows, ids_per_row]: ids of the support that stand before these; or null
  // Of all rows; null where not wanted.
  float* logprobs;  // [all rows, ids_per_row]
  float* chosen_logits;
  float* lse;
  float* entropy;
  float* sum_p2;
  std::int64_t* argmax;
  float* log_kept;
  std::int64_t* rank;  // [all rows, ids_per_row]
  int top_k;
  std::int64_t* top_k_ids;  // [all rows, top_k], as top_k.cuh leaves them
  float* top_k_logprobs;    // there the logits of these
  Normalizer* facts;        // [rows]
  Support support;
  Status* status;
  double* summaries;  // [all rows, summary_doubles] (summary.cuh), or null
  int summary_doubles;
};

// In every lane what those of a row's stretches merge to.
template <class Block, class PerLane, class T>
ISOLOGIT_DEVICE void collect(Block& block, const T* from, int stretches, int row, const T& empty, PerLane& all) {
  block.each_lane([&](int lane) {
    T own = empty;
    for (int s = lane; s < stretches; s += 32) merge(own, from[static_cast<std::int64_t>(row) * stretches + s]);
    all(lane) = own;
  });
  block.reduce([&](int lane) -> T& { return all(lane); }, 1, 32, [](T& to, const T& other) { merge(to, other); });
}

template <class BlockType>
struct Finish {
  using Block = BlockType;
  using Args = Finishing;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Finishing& p, int tile, int) {
    block.each_warp([&](int warp) {
      const int row = tile * Block::kWarps + warp;
      if (row >= p.rows) return;
      typename Block::template PerLane<RowSum> sums;
      collect(block, p.sums, p.stretches, row, empty_row_sum(), sums);
      const bool ignored = is_ignored(block, p, row);
      block.each_lane([&](int lane) {
        const Between log = log_total(sums(lane).others);
        if (lane == 0) write_row(block, p, row, sums(lane), log, ignored);
        if (lane == 0 && p.facts != nullptr) p.facts[row] = {sums(lane).greatest, ignored, log};
        for (int k = lane; p.ids != nullptr && k < p.ids_per_row; k += 32) {
          write_id(block, p, row, k, sums(lane).greatest, log, ignored);
        }
        for (int k = lane; k < p.top_k; k += 32) write_top(block, p, row, k, sums(lane).greatest, log, ignored);
      });
      if (p.log_kept != nullptr) write_log_kept(block, p, row, sums, ignored);
    });
  }

 private:
  ISOLOGIT_DEVICE static bool is_empty(const Greatest& greatest) {
    return greatest.nan_id == kNoId && greatest.top == minus_infinity();
  }

  template <class Sums>
  ISOLOGIT_DEVICE static void write_log_kept(Block& block, const Finishing& p, int row, Sums& sums, bool ignored) {
    typename Block::template PerLane<RowSum> dropped;
    if (p.dropped != nullptr) {
      collect(block, p.dropped, p.stretches, row, empty_row_sum(), dropped);
    } else {
      block.each_lane([&](int lane) { dropped(lane) = empty_row_sum(); });
    }
    block.each_lane([&](int lane) {
      if (lane != 0) return;
      const float share = is_plain(sums(lane).greatest) ? log_share(sums(lane), dropped(lane)) : quiet_nan();
      write(block, p, p.log_kept, p.first_row + row, ignored ? 0.0F : share);
    });
  }

  // Whether it has ids, all are ignored, and then so is the row.
  ISOLOGIT_DEVICE static bool is_ignored(Block& block, const Finishing& p, int row) {
    if (p.ids == nullptr || !p.ignores_rows) return false;
    return block.ballot([&](int lane) {
      for (int k = lane; k < p.ids_per_row; k += 32) {
        if (p.ids[(p.first_row + row) * p.ids_per_row + k] != p.ignored) return true;
      }
      return false;
    }) == 0;
  }

  ISOLOGIT_DEVICE static void write(Block& block, const Finishing& p, float* to, std::int64_t at, float value) {
    if (to == nullptr) return;
    if (is_open(value)) block.count(p.status->open);
    to[at] = value;
  }

  ISOLOGIT_DEVICE static void write_row(Block& block, const Finishing& p, int row, const RowSum& sum,
                                        const Between& log, bool ignored) {
    const Greatest& greatest = sum.greatest;
    const std::int64_t at = p.first_row + row;
    const bool has_nan = greatest.nan_id != kNoId;
    const bool plain = is_plain(greatest);
    if (p.argmax != nullptr) {
      p.argmax[at] = ignored ? 0 : has_nan ? greatest.nan_id : greatest.top == minus_infinity() ? -1 : greatest.id;
    }
    float lse = has_nan ? quiet_nan() : greatest.top;
    if (plain) lse = certain({static_cast<double>(greatest.top), 0.0}, log, 1.0);
    write(block, p, p.lse, at, ignored ? 0.0F : lse);
    write(block, p, p.entropy, at, ignored ? 0.0F : plain ? entropy(sum.others, log) : quiet_nan());
    write(block, p, p.sum_p2, at, ignored ? 0.0F : plain ? sum_p2(sum.others) : quiet_nan());
    if (p.summaries != nullptr) write_summary(sum, plain, p.summaries + at * p.summary_doubles, p.summary_doubles);
  }

  // L + moment / (1 + rest). Of a rest too small for pairs it is below 2^-780 and rounds to 0.
  ISOLOGIT_DEVICE static float entropy(const Others& others, const Between& log) {
    if (others.count == 0 || others.rest.hi < kLeast) return 0.0F;
    const Pair value = add(divide(others.moment, add({1.0, 0.0}, others.rest)), {log.hi, 0.5 * (log.low + log.high)});
    return certain({0.0, 0.0}, around(value), 1.0);
  }
  // (1 + squares) / (1 + rest)^2
  ISOLOGIT_DEVICE static float sum_p2(const Others& others) {
    const Pair total = add({1.0, 0.0}, others.rest);
    return certain({0.0, 0.0}, around(divide(add({1.0, 0.0}, others.squares), multiply(total, total))), 1.0);
  }

  ISOLOGIT_DEVICE static void write_id(Block& block, const Finishing& p, int row, int k, const Greatest& greatest,
                                       const Between& log, bool ignored) {
    const std::int64_t at = (p.first_row + row) * p.ids_per_row + k;
    const std::int64_t id = p.ids[at];
    if (ignored || id == p.ignored) {
      write(block, p, p.logprobs, at, 0.0F);
      write(block, p, p.chosen_logits, at, 0.0F);
      if (p.rank != nullptr) p.rank[at] = 0;
      return;
    }
    if (id < 0 || id >= p.vocab) {
      block.count(p.status->wrong);
      write(block, p, p.logprobs, at, quiet_nan());
      write(block, p, p.chosen_logits, at, quiet_nan());
      if (p.rank != nullptr) p.rank[at] = -1;
      return;
    }
    if (p.rank != nullptr) {
      const bool placed = greatest.nan_id == kNoId && p.support.has(p.first_row + row, id);
      p.rank[at] = is_empty(greatest) ? -1
                   : placed           ? std::int64_t{p.before[static_cast<std::int64_t>(row) * p.ids_per_row + k]} + 1
                                      : 0;
    }
    const float z = p.chosen[static_cast<std::int64_t>(row) * p.ids_per_row + k];
    write(block, p, p.chosen_logits, at, z);
    write(block, p, p.logprobs, at, logprob(z, greatest, log));
  }

  ISOLOGIT_DEVICE static void write_top(Block& block, const Finishing& p, int row, int k, const Greatest& greatest,
                                        const Between& log, bool ignored) {
    const std::int64_t at = (p.first_row + row) * p.top_k + k;
    if (ignored || is_empty(greatest)) p.top_k_ids[at] = ignored ? 0 : -1;
    write(block, p, p.top_k_logprobs, at, ignored ? 0.0F : logprob(p.top_k_logprobs[at], greatest, log));
  }
};

}  // namespace isologit::detail::cuda
