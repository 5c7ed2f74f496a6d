// The results of rows, from the sums of their stretches: a warp a row.
//
// lse = top + L and logprob = (z - top) - L, L = ln(1 + rest): the first term is exact as a pair of doubles and often a
// midpoint of two f32 numbers, L may be smaller by any factor, and then its sign decides. round_sum keeps both.
// Predicted: 2 us, and reading the sums. Measured: not yet.
#pragma once

#include "cuda/fold.cuh"
#include "cuda/summary.cuh"

namespace isologit::detail::cuda {

struct Finishing {
  int rows, stretches, vocab;
  std::int64_t first_row;
  const RowSum* sums;
  const std::int64_t* ids;  // or null
  int ids_per_row;
  std::int64_t ignored;
  const float* chosen;
  // Of all rows; null where not wanted.
  float* logprobs;  // [all rows, ids_per_row]
  float* chosen_logits;
  float* lse;
  float* entropy;
  float* sum_p2;
  std::int64_t* argmax;
  Status* status;
  double* summaries;  // [all rows, summary_doubles] (summary.cuh), or null
  int summary_doubles;
};

// A positive number between hi + low and hi + high, or 0 if all are.
struct Between {
  double hi, low, high;
};

// f32 of (a + b) plus or minus a number between two: the one that both ends round to, or the mark of an open one.
ISOLOGIT_DEVICE float certain(const Pair& exact, const Between& d, double sign) {
  const float one = round_sum(exact, {sign * d.hi, sign * d.low});
  const float other = round_sum(exact, {sign * d.hi, sign * d.high});
  return one == other ? one : open_mark();
}
ISOLOGIT_DEVICE Between around(const Pair& x) {  // more than sums and functions may be off by together
  const double error = x.hi * (16 * kSumError);
  return {x.hi, x.lo - error, x.lo + error};
}

// L. Of a rest too small for pairs the sign is known: m, of which it is added to or taken from, is a multiple of
// 2^-149, and nothing else of it counts.
ISOLOGIT_DEVICE Between log_total(const Others& others) {
  if (others.count == 0) return {0.0, 0.0, 0.0};
  if (others.rest.hi < kLeast) return {0.0, 0x1p-1000, 0x1p-780};
  return around(log_one_plus(others.rest));
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
      block.each_lane([&](int lane) {
        RowSum own = empty_row_sum();
        for (int s = lane; s < p.stretches; s += 32)
          merge(own, p.sums[static_cast<std::int64_t>(row) * p.stretches + s]);
        sums(lane) = own;
      });
      block.reduce([&](int lane) -> RowSum& { return sums(lane); }, 1, 32,
                   [](RowSum& to, const RowSum& from) { merge(to, from); });
      const bool ignored = is_ignored(block, p, row);
      block.each_lane([&](int lane) {
        const Between log = log_total(sums(lane).others);
        if (lane == 0) write_row(block, p, row, sums(lane), log, ignored);
        for (int k = lane; p.ids != nullptr && k < p.ids_per_row; k += 32) {
          write_id(block, p, row, k, sums(lane).greatest, log, ignored);
        }
      });
    });
  }

 private:
  // Whether it has ids, and all are ignored.
  ISOLOGIT_DEVICE static bool is_ignored(Block& block, const Finishing& p, int row) {
    if (p.ids == nullptr) return false;
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
    const bool plain = !has_nan && is_finite(greatest.top);
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
      return;
    }
    if (id < 0 || id >= p.vocab) {
      block.count(p.status->wrong_ids);
      write(block, p, p.logprobs, at, quiet_nan());
      write(block, p, p.chosen_logits, at, quiet_nan());
      return;
    }
    const float z = p.chosen[static_cast<std::int64_t>(row) * p.ids_per_row + k];
    write(block, p, p.chosen_logits, at, z);
    float logprob = quiet_nan();
    if (greatest.nan_id == kNoId && is_finite(greatest.top)) {
      logprob = z == minus_infinity()
                    ? z
                    : certain(sum_of(static_cast<double>(z), -static_cast<double>(greatest.top)), log, -1.0);
    }
    write(block, p, p.logprobs, at, logprob);
  }
};

}  // namespace isologit::detail::cuda
