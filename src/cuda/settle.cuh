// Settles the logits that were left open: a warp finds them by their mark, in a stretch of a row, and sums each again,
// in pairs of doubles and, where those do not decide, as an integer. No list, no count, no host: a call has one shape
// whatever its numbers are.
// Of results in bf16 and f16, whose last place is far above f64's, a plain sum decides nearly all; it comes first.
// Predicted: reading the logits, 0.2 ms for each 1024 rows of V=151936, and 16 KiB from the caches for each open one (a
// fifth of a percent at H=4096), 1.3 ms. Measured: 0.32 ms in all (H200, 2026-11-26): the caches hold the prepared
// rows, and fewer logits stay open.
#pragma once

#include "cuda/accumulator.cuh"
#include "cuda/pair_sum.cuh"
#include "cuda/product.cuh"

namespace isologit::detail::cuda {

template <class BlockType, class E, bool LOW, bool ALIGNED>
struct Settle {
  using Block = BlockType;
  using Args = Product;
  static constexpr int kBlocksPerProcessor = 2;
  static constexpr bool kBeginsEarly = true;
  static constexpr int kPerLane = 4;  // logits a lane looks at
  static constexpr int kStretch = 32 * kPerLane;
  static constexpr int kPerBlock = Block::kWarps * kStretch;

  struct Shared {
    Accumulator sum[Block::kWarps];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Product& p, int tile, int row) {
    block.after_previous();
    block.each_warp([&](int warp) {
      struct Seen {
        bool open[kPerLane];
      };
      typename Block::template PerLane<Seen> seen;
      const int v0 = tile * kPerBlock + warp * kStretch;
      block.each_lane([&](int lane) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < kPerLane; ++i) {
          const int v = v0 + 32 * i + lane;
          seen(lane).open[i] = v < p.vocab && is_open_result(p.logits, p.logits_type, row * p.logits_stride + v);
        }
      });
      block.sync_warp();  // all have read what one is about to write
      ISOLOGIT_UNROLL
      for (int i = 0; i < kPerLane; ++i) {
        std::uint32_t open = block.ballot([&](int lane) { return seen(lane).open[i]; });
        while (open != 0) {
#ifdef __CUDACC__
          const int which = __ffs(static_cast<int>(open)) - 1;
#else
          const int which = __builtin_ctz(open);
#endif
          open &= open - 1;
          settle_one(block, shared.sum[warp], p, row, v0 + 32 * i + which);
        }
      }
    });
  }

 private:
  ISOLOGIT_DEVICE static HiddenFour hidden_at(const Product& p, int row, int k) {
    const std::int64_t at = static_cast<std::int64_t>(row) * p.depth + k;
    HiddenFour hidden;
    if (!LOW && p.packed) {
      ISOLOGIT_UNROLL
      for (int j = 0; j < 4; ++j) hidden.value[j] = static_cast<double>(element_value(p.words, p.hidden_type, at + j));
      return hidden;
    }
    hidden = from_words<LOW>(load_sixteen(p.words + at), LOW ? load_sixteen(p.words + at + p.plane) : Sixteen{});
    ISOLOGIT_UNROLL
    for (double& h : hidden.value) h *= power_of_two(-kHiddenBias);
    return hidden;
  }

  // Calls use(product) for every product of the lane, all exact.
  template <class Use>
  ISOLOGIT_DEVICE static void each_product(const Product& p, int row, int v, int lane, Use use) {
    const auto* weight = static_cast<const typename E::Bits*>(p.weight) + v * p.weight_stride;
    for (int k = 8 * lane; k < p.size; k += 256) {
      const Chunk<E> chunk = load_chunk<E, ALIGNED>(weight, k, p.size);
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const HiddenFour hidden = hidden_at(p, row, k + 4 * half);
        ISOLOGIT_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (k + 4 * half + j >= p.size) continue;  // an infinity has no zero to meet there
          use(hidden.value[j] * static_cast<double>(chunk.value(4 * half + j)));
        }
      }
    }
    if (lane == 0 && p.bias != nullptr) use(static_cast<double>(p.bias_of(v)));
  }

  // By a sum in f64, or the mark. Exact products, size + 1 of them and as many additions, lane by lane and then of
  // lanes; of their magnitudes too, whose sum may be a 2^-30th too small. NaN where anything is not finite.
  ISOLOGIT_DEVICE static float settled_in_f64(Block& block, const Product& p, int row, int v) {
    struct Plain {
      double sum, magnitude;
    };
    typename Block::template PerLane<Plain> plain;
    block.each_lane([&](int lane) {
      Plain own = {0.0, 0.0};
      each_product(p, row, v, lane, [&](double product) {
        own.sum += product;
        own.magnitude += fabs(product);
      });
      plain(lane) = own;
    });
    block.reduce([&](int lane) -> Plain& { return plain(lane); }, 1, 32,
                 [](Plain& to, const Plain& from) {
                   to.sum += from.sum;
                   to.magnitude += from.magnitude;
                 });
    typename Block::template PerLane<float> logit;
    block.each_lane([&](int lane) {
      const double error = (p.size + 40) * 0x1.02p-53 * plain(lane).magnitude + fabs(plain(lane).sum) * 0x1p-51;
      const float low = round_once(plain(lane).sum - error, p.logits_type);
      logit(lane) = low == round_once(plain(lane).sum + error, p.logits_type) ? low : open_mark();  // never with NaN
    });
    return logit(0);
  }

  ISOLOGIT_DEVICE static void settle_one(Block& block, Accumulator& exact, const Product& p, int row, int v) {
    if (p.logits_type != kF32) {
      const float logit = settled_in_f64(block, p, row, v);
      if (!is_open(logit)) {
        block.each_lane([&](int lane) {
          if (lane == 0) p.store(row, v, logit);
        });
        return;
      }
    }
    typename Block::template PerLane<PairSum> sum;
    typename Block::template PerLane<float> logit;
    block.each_lane([&](int lane) {
      PairSum own = empty_pair_sum();
      each_product(p, row, v, lane, [&](double product) { add_product(own, product); });
      sum(lane) = own;
    });
    block.reduce([&](int lane) -> PairSum& { return sum(lane); }, 1, 32,
                 [](PairSum& to, const PairSum& from) { merge(to, from); });
    block.each_lane([&](int lane) { logit(lane) = settled(sum(lane), p.size + 1, p.logits_type); });
    if (block.first([&](int lane) { return is_open(logit(lane)); })) {
      block.each_lane([&](int lane) {
        if (lane < Accumulator::kDigits) exact.digit[lane] = 0;
      });
      block.sync_warp();
      block.each_lane([&](int lane) {
        each_product(p, row, v, lane, [&](double product) {
          accumulate(product, [&](int digit, std::uint64_t x) { block.add_to(exact.digit[digit], x); });
        });
      });
      block.sync_warp();
      block.each_lane([&](int lane) {
        if (lane == 0) logit(lane) = round_once(exact, p.logits_type);
      });
      block.sync_warp();
    }
    block.each_lane([&](int lane) {
      if (lane == 0) p.store(row, v, logit(lane));
    });
  }
};

}  // namespace isologit::detail::cuda
