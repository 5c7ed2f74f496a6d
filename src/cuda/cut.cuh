// Where the cuts of a row end (CONTRACT.md 4): min-p, top-k and top-p each keep a prefix of its order, so all together
// do. A block a row finds the least key (order.cuh) that is kept.
//
// min-p: e^(z - top) >= min_p holds above some f32 number, which is found five bits at a time, a candidate a lane.
// top-k and top-p: the last key that is kept is found five bits at a time too, from how many keys begin alike, or how
// much mass they have. Masses are sums of e^(z - top) in pairs of doubles, within 2^-88 of themselves; logits near the
// top are counted, and what they lack of 1 is summed, so that what they balance exactly is decided.
// Predicted: a pass over the row for each five bits until one key is left, half of them over a few keys alone; a mass
// costs what it does in fold.cuh, on one of 132 processors: 1 ms of V=151936 for top-p without top-k. Measured: not
// yet.
#pragma once

#include "cuda/block.cuh"
#include "cuda/certain.cuh"
#include "cuda/fold.cuh"

namespace isologit::detail::cuda {

// A number for all rows or one a row; or none.
template <class T>
struct PerRow {
  const T* data;
  bool one;

  ISOLOGIT_DEVICE T of(std::int64_t row, T otherwise) const {
    return data == nullptr ? otherwise : data[one ? 0 : row];
  }
};

// Of some logits the sum of e^(z - top): near - less + others. How many there are; how many of these lie within kNear
// of the top, and the sum of what each of them lacks of 1; the sum of all others.
inline constexpr double kNear = 0x1p-20;
struct Mass {
  Pair others, less;
  std::uint32_t near, count;
};
ISOLOGIT_DEVICE Mass no_mass() { return {{0.0, 0.0}, {0.0, 0.0}, 0, 0}; }
ISOLOGIT_DEVICE void merge(Mass& to, const Mass& from) {
  to.others = add(to.others, from.others);
  to.less = add(to.less, from.less);
  to.near += from.near;
  to.count += from.count;
}

// Whether prefix >= p (prefix + beyond), 0 < p < 1: 1, -1, or 0 if that is not proven. `prefix` has the top.
// With q = 1 - p that is q prefix - p beyond >= 0, of which the share of `near` is exact: below 2^22 ids and, of p with
// 24 bits above 2^-24, q with 48. Where it is 0, what is lacking decides: beyond the prefix it is more for each id, by
// an n-th part or more, since the top lacks nothing. Where nothing is lacking, whether there are others beyond.
ISOLOGIT_DEVICE int reaches(const Mass& prefix, const Mass& beyond, float top_p) {
  const double p = static_cast<double>(top_p);
  if (p < 0x1p-23) return 1;  // of less than 2^22 the top alone is enough
  const double q = 1.0 - p;
  const Pair near =
      add(product_of(q, static_cast<double>(prefix.near)), negative(product_of(p, static_cast<double>(beyond.near))));
  if (near.hi == 0.0 && prefix.less.hi == 0.0 && beyond.less.hi == 0.0) return beyond.count > beyond.near ? -1 : 1;
  const Pair gain = add(multiply({q, 0.0}, prefix.others), multiply({p, 0.0}, beyond.less));
  const Pair loss = add(multiply({p, 0.0}, beyond.others), multiply({q, 0.0}, prefix.less));
  const Pair value = add(near, add(gain, negative(loss)));
  // The last term: masses beyond kFarthest.
  const double error = (fabs(near.hi) + gain.hi + loss.hi) * 0x1p-80 + 0x1p-900;
  return value.hi > error ? 1 : value.hi < -error ? -1 : 0;
}

// Whether e^(z - top) >= min_p > 0 of the logit with this place; 0 if that is not proven.
ISOLOGIT_DEVICE int passes_min_p(std::uint64_t place, float top, float min_p) {
  if (place >= place_of_logit(top)) return 1;
  if (place <= place_of_logit(minus_infinity()) || min_p >= 1.0F) return -1;
  const float z = logit_of_place(static_cast<std::uint32_t>(place));
  const Pair gap = sum_of(static_cast<double>(z), -static_cast<double>(top));
  if (gap.hi < -110.0) return -1;  // e^-104 is below 2^-149
  const double p = static_cast<double>(min_p);
  const Pair more = add(value_of(exponential(gap)), {-p, 0.0});
  return more.hi > p * 0x1p-90 ? 1 : more.hi < p * -0x1p-90 ? -1 : 0;
}

struct Cutting {
  WholeRows rows;
  const RowSum* sums;  // [rows, stretches], of the support
  int stretches;
  PerRow<float> temperatures;  // 0: no cuts
  PerRow<float> min_p;
  PerRow<std::int64_t> top_k;
  PerRow<float> top_p;
  std::uint64_t* least;  // [rows]: 1 where nothing is cut
  Status* status;
};

template <class BlockType>
struct Cut {
  using Block = BlockType;
  using Args = Cutting;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kBits = 5;    // of a key, at a time
  static constexpr int kFirst = 60;  // the first four of 64

  struct Shared {
    Pair sums[Block::kWarps][64];  // by the next bits of keys: of masses, then of what near ones lack
    std::uint32_t near[32], count[32];
    Mass before, after;    // of keys that stand before those that begin with `prefix`, and after them
    std::uint64_t prefix;  // the bits found so far
    std::uint64_t least;   // no key below it is kept
    float top;
    bool cuts, found;
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Cutting& p, int row, int) {
    const std::int64_t at = p.rows.first_row + row;
    block.each_warp([&](int warp) {
      if (warp == 0) begin(block, shared, p, row);
    });
    block.sync();
    const float min_p = p.min_p.of(at, 0.0F);
    const std::int64_t top_k = p.top_k.of(at, 0);
    const float top_p = p.top_p.of(at, 1.0F);
    if (shared.cuts && min_p > 0.0F) {
      block.each_warp([&](int warp) {
        if (warp == 0) limit(block, shared, p, min_p);
      });
    }
    if (shared.cuts && top_k > 0) {
      search<false>(block, shared, p, row,
                    [&](const Mass& prefix, const Mass&) { return std::int64_t{prefix.count} >= top_k ? 1 : -1; });
    }
    if (shared.cuts && top_p < 1.0F) {
      search<true>(block, shared, p, row,
                   [&](const Mass& prefix, const Mass& beyond) { return reaches(prefix, beyond, top_p); });
    }
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp == 0 && lane == 0) p.least[row] = shared.least;
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static void begin(Block& block, Shared& shared, const Cutting& p, int row) {
    typename Block::template PerLane<Greatest> greatest;
    block.each_lane([&](int lane) {
      Greatest own = nothing_greatest();
      for (int s = lane; s < p.stretches; s += 32) {
        merge(own, p.sums[static_cast<std::int64_t>(row) * p.stretches + s].greatest);
      }
      greatest(lane) = own;
    });
    block.reduce([&](int lane) -> Greatest& { return greatest(lane); }, 1, 32,
                 [](Greatest& to, const Greatest& from) { merge(to, from); });
    block.each_lane([&](int lane) {
      if (lane != 0) return;
      shared.top = greatest(lane).top;
      shared.cuts = is_plain(greatest(lane)) && p.temperatures.of(p.rows.first_row + row, 1.0F) != 0.0F;
      shared.least = 1;
    });
  }

  // The greatest place that does not pass, its first bits being `fails`; the place 0 is below all logits.
  ISOLOGIT_DEVICE static void limit(Block& block, Shared& shared, const Cutting& p, float min_p) {
    std::uint64_t fails = 0;
    for (int shift = 30; shift >= 0; shift -= kBits) {
      typename Block::template PerLane<int> passes;
      block.each_lane([&](int lane) {
        const std::uint64_t place = fails | static_cast<std::uint64_t>(lane) << shift;
        passes(lane) = passes_min_p(place, shared.top, min_p);
      });
      const std::uint32_t not_passing = block.ballot([&](int lane) { return passes(lane) < 0; });
      if (block.ballot([&](int lane) { return passes(lane) == 0; }) != 0) {
        block.each_lane([&](int lane) {
          if (lane == 0) block.count(p.status->open);
        });
      }
      fails |= static_cast<std::uint64_t>(highest_bit(not_passing)) << shift;
    }
    block.each_lane([&](int lane) {
      if (lane == 0) shared.least = (fails + 1) << 32;
    });
  }

  template <class F>
  ISOLOGIT_DEVICE static void each_thread(Block& block, F f) {
    block.each_warp([&](int warp) { block.each_lane([&](int lane) { f(warp, lane); }); });
  }

  // Raises `least` to the first key, in the order, with which what it and those before it have reaches; if there is
  // none, it stays.
  template <bool MASS, class Reached>
  ISOLOGIT_DEVICE static void search(Block& block, Shared& shared, const Cutting& p, int row, Reached reached) {
    block.sync();
    each_thread(block, [&](int warp, int lane) {
      if (warp != 0 || lane != 0) return;
      shared.before = shared.after = no_mass();
      shared.prefix = 0;
      shared.found = false;
    });
    for (int shift = kFirst; shift >= 0; shift -= kBits) {
      each_thread(block, [&](int warp, int lane) {
        shared.sums[warp][lane] = shared.sums[warp][32 + lane] = {0.0, 0.0};
        if (warp == 0) shared.near[lane] = shared.count[lane] = 0;
      });
      block.sync();
      block.each_warp([&](int warp) {
        for (int v = 32 * warp; v < p.rows.vocab; v += Block::kThreads)
          weigh<MASS>(block, shared, p, row, shift, warp, v);
      });
      block.sync();
      block.each_warp([&](int warp) {
        if (warp == 0) narrow(block, shared, p, shift, reached);
      });
      block.sync();
      if (shared.found) return;
    }
  }

  // 32 ids from v on.
  template <bool MASS>
  ISOLOGIT_DEVICE static void weigh(Block& block, Shared& shared, const Cutting& p, int row, int shift, int warp,
                                    int v) {
    struct Own {
      Pair mass;
      int bin;  // that has yet to be given it; -1: none
      int unused;
    };
    typename Block::template PerLane<Own> own;
    block.each_lane([&](int lane) {
      own(lane) = {{0.0, 0.0}, -1, 0};
      if (v + lane >= p.rows.vocab) return;
      const std::uint64_t key = p.rows.key(row, v + lane);
      const float z = p.rows.logit(row, v + lane);
      if (key < shared.least || z == minus_infinity() || key >> shift >> kBits != shared.prefix) return;
      const int bin = static_cast<int>(key >> shift & 31U);
      block.count(shared.count[bin]);
      if (!MASS) return;
      const Pair gap = sum_of(static_cast<double>(z), -static_cast<double>(shared.top));
      if (gap.hi < -kFarthest) return;
      const Exponential e = exponential(gap);
      const bool near = gap.hi >= -kNear;  // e.k is 0
      if (near) block.count(shared.near[bin]);
      own(lane) = {near ? negative(e.p) : value_of(e), near ? 32 + bin : bin, 0};
    });
    while (MASS) {  // the lanes of one bin at a time
      typename Block::template PerLane<int> bin;
      block.each_lane([&](int lane) { bin(lane) = own(lane).bin; });
      if (block.ballot([&](int lane) { return bin(lane) >= 0; }) == 0) return;
      block.reduce([&](int lane) -> int& { return bin(lane); }, 1, 32,
                   [](int& to, int from) { to = to > from ? to : from; });
      typename Block::template PerLane<Pair> mass;
      block.each_lane([&](int lane) {
        const bool gives = own(lane).bin == bin(lane);
        mass(lane) = gives ? own(lane).mass : Pair{0.0, 0.0};
        if (gives) own(lane).bin = -1;
      });
      block.reduce([&](int lane) -> Pair& { return mass(lane); }, 1, 32,
                   [](Pair& to, const Pair& from) { to = add(to, from); });
      block.each_lane([&](int lane) {
        Pair& sum = shared.sums[warp][bin(lane)];
        if (lane == 0) sum = add(sum, mass(lane));
      });
    }
  }

  // By the first warp: which of the next bits the key has that is looked for.
  template <class Reached>
  ISOLOGIT_DEVICE static void narrow(Block& block, Shared& shared, const Cutting& p, int shift, Reached reached) {
    block.each_lane([&](int lane) {
      for (int i = lane; i < 64; i += 32) {
        Pair sum = shared.sums[0][i];
        for (int w = 1; w < Block::kWarps; ++w) sum = add(sum, shared.sums[w][i]);
        shared.sums[0][i] = sum;
      }
    });
    block.sync_warp();
    struct Own {
      Mass before, after;  // of the lane's bits: the first without, the second too
      int reached, unused;
    };
    typename Block::template PerLane<Own> own;
    block.each_lane([&](int lane) {
      Own mine = {shared.before, shared.after, -1, 0};
      for (int i = 31; i > lane; --i) merge(mine.before, bin_of(shared, i));
      for (int i = lane - 1; i >= 0; --i) merge(mine.after, bin_of(shared, i));
      Mass with = mine.before;
      merge(with, bin_of(shared, lane));
      if (shared.count[lane] != 0) mine.reached = reached(with, mine.after);
      own(lane) = mine;
    });
    const std::uint32_t enough = block.ballot([&](int lane) { return own(lane).reached >= 0; });
    block.sync_warp();  // all lanes have read what one is about to write
    block.each_lane([&](int lane) {
      if (enough == 0) {
        if (lane == 0) shared.found = true;
        return;
      }
      if (lane != highest_bit(enough)) return;
      shared.before = own(lane).before;
      shared.after = own(lane).after;
      shared.prefix = shared.prefix << kBits | static_cast<std::uint64_t>(lane);
      shared.found = shift == 0 || shared.count[lane] == 1 || own(lane).reached == 0;
      if (own(lane).reached == 0) block.count(p.status->open);
      const std::uint64_t least = shared.prefix << shift;
      if (shared.found && least > shared.least) shared.least = least;
    });
  }

  ISOLOGIT_DEVICE static Mass bin_of(const Shared& shared, int i) {
    return {shared.sums[0][i], shared.sums[0][32 + i], shared.near[i], shared.count[i]};
  }
};

}  // namespace isologit::detail::cuda
