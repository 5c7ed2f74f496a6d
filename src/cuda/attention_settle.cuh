// What f64 leaves open of attention, by the definition (CONTRACT.md 10) in pairs of doubles; what these leave open,
// next to nothing but exact ties, is NaN and counted. A block a query and kv head, whose heads it makes one after the
// other.
//
// A thread makes the score of a key: a sum of exact products, itself exact as a rule (pair_sum.cuh), times the scale.
// The weights are of distances from the greatest score or the sink; a distance past 690 weighs nothing, which of a
// value is below 2^-860. Then a thread sums an element of the values over all keys. Errors, u = 2^-53: distances up
// to 690 within 2^-94, weights 2^-98, sums of n terms 2^-102 n, the quotient 2^-102; of inexact scores theirs, twice,
// but where one score is alone. Predicted: to look for open results 10 us of 16384 blocks; a row of 4096 keys 70 us,
// of which two thirds are the scores, made twice. Measured: not yet.
#pragma once

#include "cuda/attention_request.cuh"
#include "cuda/pair_sum.cuh"
#include "cuda/row_sum.cuh"

namespace isologit::detail::cuda {

// cap tanh(x / cap), within 2^-92 of the cap, of |x| below 40 caps; then it is the cap but for 2^-114.
ISOLOGIT_DEVICE Pair capped(const Pair& x, double cap) {
  const Pair size = x.hi < 0 ? negative(x) : x;
  Pair value = {cap, 0.0};
  if (size.hi < 40.0 * cap) {
    const Pair less = exp_less_one(scaled(divide(size, {cap, 0.0}), -2.0));  // e^(-2 x) - 1
    value = multiply({cap, 0.0}, divide(negative(less), add({2.0, 0.0}, less)));
  }
  return x.hi < 0 ? negative(value) : value;
}

struct Score {
  Pair value;
  double error;
  bool is_nan, is_nothing;  // -inf: weighs nothing
};

ISOLOGIT_DEVICE Score score_of(const AttentionRequest& p, std::int64_t q, std::int64_t key) {
  PairSum sum = empty_pair_sum();
  ISOLOGIT_ROLLED
  for (int d = 0; d < p.dim; ++d) {
    add_product(sum, p.q.at(q + d) * static_cast<double>(element_value(p.keys.data, p.q.type, key + d)));
  }
  const auto cap = static_cast<double>(p.softcap);
  const auto scale = static_cast<double>(p.scale);
  Score score = {{0.0, 0.0}, 0.0, false, false};
  if (sum.specials != 0) {
    score.is_nan = sum.specials != kMetMinusInfinity && (cap == 0 || sum.specials != kMetPlusInfinity);
    score.is_nothing = cap == 0;
    score.value.hi = sum.specials == kMetPlusInfinity ? cap : -cap;
    return score;
  }
  double high = sum.s;
  const double low = two_sum(high, sum.e);
  const double terms = p.dim + 40;
  double error = sum.m * (terms * terms) * 0x1.1p-104;  // of `settled` in pair_sum.cuh
  if (error < power_of_two(sum.lowest)) error = 0.0;
  score.value = multiply({high, low}, {scale, 0.0});
  score.error = error * scale + (low != 0 ? fabs(score.value.hi) * 0x1p-103 : 0.0);
  if (cap != 0) {
    if (fabs(score.value.hi) - score.error > 40.0 * cap) score.error = 0.0;  // all of these are the cap
    score.value = capped(score.value, cap);
    score.error += cap * 0x1p-92;
  }
  return score;
}

template <class BlockType>
struct SettleAttention {
  using Block = BlockType;
  using Args = AttentionRequest;
  static constexpr int kBlocksPerProcessor = 1;
  static_assert(Block::kThreads == kMostHead, "a thread has one element");
  static constexpr int kAtOnce = Block::kThreads;  // keys

  struct Top {
    Pair value;
    double error;
    int key;  // or -1: the sink, -2: none
    int is_nan;
  };
  struct Weight {
    Pair value;
    std::int64_t at;  // of the key's value, or kNowhere: not read
  };
  struct Shared {
    std::uint32_t open;
    Top tops[Block::kWarps];
    double error[Block::kWarps];
    Weight weights[kAtOnce];
  };
  struct Lane {
    Top top;
    double error;  // of scores
    Pair total, sum;
    double size;  // of what was added to the sum
    std::uint32_t specials;
  };
  struct Row {
    std::int64_t q, y;
    int s, kv_head;
    Seen seen;
    float sink;
  };
  using State = typename Block::template PerThread<Lane>;

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const AttentionRequest& p, int index, int) {
    const std::int64_t token = index / p.kv_heads;
    const int kv_head = index % p.kv_heads;
    ISOLOGIT_ROLLED
    for (int h = 0; h < p.group; ++h) {
      const int head = kv_head * p.group + h;
      const int row = static_cast<int>(token * p.q.rows.heads + head);
      if (!has_open(block, shared, p, p.y.rows.offset_of(row))) continue;
      settle(block, shared, p, row_of(p, token, kv_head, head, row));
    }
  }

 private:
  ISOLOGIT_DEVICE static bool has_open(Block& block, Shared& shared, const AttentionRequest& p, std::int64_t y) {
    block.sync();  // of what was asked before
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp == 0 && lane == 0) shared.open = 0;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const int d = 32 * warp + lane;
        if (d < p.values.dim && is_open_result(p.y.data, p.y.type, y + d)) block.count(shared.open);
      });
    });
    block.sync();
    return shared.open != 0;
  }

  ISOLOGIT_DEVICE static Row row_of(const AttentionRequest& p, std::int64_t token, int kv_head, int head, int row) {
    int s = 0;
    for (int above = p.sequences; above - s > 1;) {
      const int middle = s + (above - s) / 2;
      if (p.query_starts[middle] <= token) {
        s = middle;
      } else {
        above = middle;
      }
    }
    const Sequence sequence = sequence_of(p, s);
    const bool is_there = sequence.is_valid && token >= sequence.first_query &&
                          token - sequence.first_query < sequence.queries;  // else something is counted as wrong
    const Seen seen = is_there ? seen_by(p, sequence, token - sequence.first_query) : Seen{0, 0};
    return {p.q.rows.offset_of(row), p.y.rows.offset_of(row), s, kv_head, seen, sink_of(p, head)};
  }

  ISOLOGIT_DEVICE static void settle(Block& block, Shared& shared, const AttentionRequest& p, const Row& row) {
    State state;
    find_top(block, shared, p, row, state);
    block.sync();
    const Top top = top_of(shared, row);
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        Lane& own = state(warp, lane);
        own.error = 0.0;
        own.total = top.key < 0 ? Pair{top.key == -1 ? 1.0 : 0.0, 0.0} : sink_weight(row.sink, top, own.error);
        own.sum = {0.0, 0.0};
        own.size = 0.0;
        own.specials = 0;
      });
    });
    ISOLOGIT_ROLLED
    for (std::int64_t first = row.seen.begin; first < row.seen.end; first += kAtOnce) {
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          const int at = 32 * warp + lane;
          shared.weights[at] = weight_of(p, row, first + at, top, state(warp, lane).error);
        });
      });
      block.sync();
      const int count = row.seen.end - first < kAtOnce ? static_cast<int>(row.seen.end - first) : kAtOnce;
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) { absorb(state(warp, lane), shared, p, 32 * warp + lane, count); });
      });
      block.sync();
    }
    block.each_warp([&](int warp) {
      block.reduce([&](int lane) -> double& { return state(warp, lane).error; }, 1, 32,
                   [](double& a, double b) { a = a > b ? a : b; });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.error[warp] = state(warp, lane).error;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { end(block, state(warp, lane), shared, p, row, top, 32 * warp + lane); });
    });
  }

  ISOLOGIT_DEVICE static std::int64_t key_at(const AttentionRequest& p, const Row& row, std::int64_t j) {
    return j < row.seen.end ? cuda::place_of(p, p.keys, row.s, j, row.kv_head) : kNowhere;
  }

  ISOLOGIT_DEVICE static void merge(Top& to, const Top& from) {
    to.is_nan |= from.is_nan;
    if (from.key == -2) return;
    const bool is_greater = from.value.hi != to.value.hi ? from.value.hi > to.value.hi : from.value.lo > to.value.lo;
    const bool is_first = from.value.hi == to.value.hi && from.value.lo == to.value.lo && from.key < to.key;
    if (to.key != -2 && !is_greater && !is_first) return;
    to.value = from.value;
    to.error = from.error;
    to.key = from.key;
  }

  ISOLOGIT_DEVICE static void find_top(Block& block, Shared& shared, const AttentionRequest& p, const Row& row,
                                       State& state) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        Top top = {{0.0, 0.0}, 0.0, -2, 0};
        ISOLOGIT_ROLLED
        for (std::int64_t j = row.seen.begin + 32 * warp + lane; j < row.seen.end; j += Block::kThreads) {
          const std::int64_t key = key_at(p, row, j);
          if (key == kNowhere) continue;
          const Score score = score_of(p, row.q, key);
          const bool is_there = !score.is_nan && !score.is_nothing;
          merge(top, {score.value, score.error, is_there ? static_cast<int>(j) : -2, score.is_nan ? 1 : 0});
        }
        state(warp, lane).top = top;
      });
      block.reduce([&](int lane) -> Top& { return state(warp, lane).top; }, 1, 32,
                   [](Top& to, const Top& from) { merge(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.tops[warp] = state(warp, lane).top;
      });
    });
  }
  // The sink among them.
  ISOLOGIT_DEVICE static Top top_of(const Shared& shared, const Row& row) {
    Top top = shared.tops[0];
    for (int w = 1; w < Block::kWarps; ++w) merge(top, shared.tops[w]);
    const auto sink = static_cast<double>(row.sink);
    if (sink != sink) top.is_nan = 1;
    if (is_finite(sink)) merge(top, {{sink, 0.0}, 0.0, -1, 0});
    return top;
  }

  // e^(score - top); what the distance may be off by joins `error`.
  ISOLOGIT_DEVICE static Pair distant(const Pair& score, double own_error, const Top& top, double& error) {
    const Pair gap = add(score, negative(top.value));
    const double off = own_error + top.error;
    const bool is_far = gap.hi < -kFarthest;
    const double counts = is_far ? (gap.hi + off > 10.0 - kFarthest ? 1.0 : 0.0) : off;
    error = counts > error ? counts : error;
    return is_far ? Pair{0.0, 0.0} : value_of(exponential(gap));
  }
  ISOLOGIT_DEVICE static Pair sink_weight(float sink, const Top& top, double& error) {
    return is_finite(static_cast<double>(sink)) ? distant({static_cast<double>(sink), 0.0}, 0.0, top, error)
                                                : Pair{0.0, 0.0};
  }
  ISOLOGIT_DEVICE static Weight weight_of(const AttentionRequest& p, const Row& row, std::int64_t j, const Top& top,
                                          double& error) {
    const std::int64_t key = key_at(p, row, j);
    if (key == kNowhere || top.is_nan != 0) return {{0.0, 0.0}, kNowhere};
    const Score score = score_of(p, row.q, key);
    if (score.is_nothing) return {{0.0, 0.0}, kNowhere};
    const std::int64_t at = cuda::place_of(p, p.values, row.s, j, row.kv_head);
    if (j == top.key) return {{1.0, 0.0}, at};
    return {distant(score.value, score.error, top, error), at};
  }

  ISOLOGIT_DEVICE static void absorb(Lane& own, const Shared& shared, const AttentionRequest& p, int thread,
                                     int count) {
    ISOLOGIT_ROLLED
    for (int k = 0; k < count; ++k) {
      const Weight weight = shared.weights[k];
      if (weight.at == kNowhere) continue;
      own.total = add(own.total, weight.value);
      if (thread >= p.values.dim) continue;
      const auto v = static_cast<double>(element_value(p.values.data, p.q.type, weight.at + thread));
      if (!is_finite(v)) {
        own.specials |= v > 0 ? kMetPlusInfinity : v < 0 ? kMetMinusInfinity : kMetNan;
        continue;
      }
      own.sum = add(own.sum, multiply(weight.value, {v, 0.0}));
      own.size += weight.value.hi * fabs(v);
    }
  }

  ISOLOGIT_DEVICE static void end(Block& block, const Lane& own, const Shared& shared, const AttentionRequest& p,
                                  const Row& row, const Top& top, int thread) {
    double of_scores = 0.0;
    for (int w = 0; w < Block::kWarps; ++w) of_scores = shared.error[w] > of_scores ? shared.error[w] : of_scores;
    const auto keys = static_cast<double>(row.seen.end - row.seen.begin);
    const double delta = of_scores + 0x1p-93 + (keys + 8) * 0x1p-102;
    if (thread >= p.values.dim || !is_open_result(p.y.data, p.y.type, row.y + thread)) return;
    float result = special(own.specials, top);
    if (result == 0.0F && top.key != -2 && row.sink < -minus_infinity()) {
      const Pair value = divide(own.sum, own.total);
      const double error = 2.1 * delta * (own.size / own.total.hi) + fabs(value.hi) * 0x1p-100;
      const float low = round_sum(value.hi, value.lo - error, p.y.type);
      const bool is_proven = of_scores < 0x1p-10 && low == round_sum(value.hi, value.lo + error, p.y.type);
      result = is_proven ? low : open_mark();
    }
    if (is_open(result)) block.count(p.status->open);
    p.y.store(row.y + thread, result);
  }
  // Or 0.
  ISOLOGIT_DEVICE static float special(std::uint32_t specials, const Top& top) {
    if (top.is_nan != 0 || (specials & kMetNan) != 0) return quiet_nan();
    if (specials == (kMetPlusInfinity | kMetMinusInfinity)) return quiet_nan();
    if (specials != 0) return specials == kMetPlusInfinity ? -minus_infinity() : minus_infinity();
    return 0.0F;
  }
};

}  // namespace isologit::detail::cuda
