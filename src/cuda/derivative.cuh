// dz of a tile of logits: the derivative of a row's outputs by each logit of CONTRACT.md 1, in pairs of doubles, stored
// as words: the high half of an f64, within 2^-21 of itself. Exactly 0 outside the support.
//
// Where terms cancel so far that what is left is not proven to 2^-20 of itself, the call's status says so. Infinite and
// NaN upstreams make NaN. Predicted: some 350 instructions in f64 a logit, as the sums of fold.cuh. Measured: not yet.
#pragma once

#include "cuda/transforms.cuh"
#include "cuda/upstream.cuh"

namespace isologit::detail::cuda {

// The nearest f64 whose low half is 0; of f64 numbers with 21 bits (bf16, f16) themselves.
ISOLOGIT_DEVICE std::uint32_t word_of(double x) {
  if (x != x) return 0x7FF80000U;  // a carry would leave the NaNs
  return static_cast<std::uint32_t>((bit_cast<std::uint64_t>(x) + 0x80000000U) >> 32);
}

struct Derivation {
  const float* products;  // [rows, size]
  std::int64_t stride;    // of products and words
  int first_id, size;     // of the vocabulary
  Transforms transforms;
  Upstream upstream;
  Support support;
  const RowUpstream* gathered;  // of all rows
  const double* summaries;
  int summary_doubles;
  std::int64_t first_row;
  std::uint32_t* words;  // [rows, size]
  Status* status;
};

template <class BlockType>
struct Derive {
  using Block = BlockType;
  using Args = Derivation;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kPerThread = 4;
  static constexpr int kIds = Block::kThreads * kPerThread;  // of a block
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Derivation& p, int part, int row) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int i = 0; i < kPerThread; ++i) {
          const int v = part * kIds + i * Block::kThreads + 32 * warp + lane;
          if (v < p.size) write(block, p, row, v, {0.0, 0.0});
        }
      });
    });
    block.sync();  // the ids' own are written over what is there
    if (p.upstream.ids == nullptr) return;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int k = 32 * warp + lane; k < p.upstream.ids_per_row; k += Block::kThreads) own(block, p, part, row, k);
      });
    });
  }

 private:
  // The logit of id k, if it is of this block and no earlier one is the same.
  ISOLOGIT_DEVICE static void own(Block& block, const Derivation& p, int part, int row, int k) {
    const std::int64_t begin = (p.first_row + row) * p.upstream.ids_per_row;
    const std::int64_t id = p.upstream.ids[begin + k];
    const std::int64_t v = id - p.first_id;
    if (id == p.upstream.ignored || v < part * kIds || v >= (part + 1) * kIds || v >= p.size) return;
    Pair a = {0.0, 0.0};
    for (int j = 0; j < p.upstream.ids_per_row; ++j) {
      if (p.upstream.ids[begin + j] != id) continue;
      if (j < k) return;
      a = add(a, {p.upstream.a(begin + j), 0.0});
    }
    write(block, p, row, static_cast<int>(v), a);
  }

  ISOLOGIT_DEVICE static void write(Block& block, const Derivation& p, int row, int v, const Pair& a) {
    const std::int64_t all_row = p.first_row + row;
    const RowUpstream& up = p.gathered[all_row];
    std::uint32_t* to = p.words + row * p.stride + v;
    if (up.active == 0 || !p.support.has(all_row, p.first_id + v)) {
      *to = 0;
      return;
    }
    const float product = p.products[row * p.stride + v];
    const float temperature = p.transforms.temperature_of(all_row);
    const float z = transformed(p.transforms, product, temperature);
    const Summary summary = read_summary(p.summaries + all_row * p.summary_doubles, p.summary_doubles);
    bool proven = !is_open(z);
    double dz = static_cast<double>(quiet_nan());
    if (proven && !summary.special) {
      dz = of_last_logit(p, up, summary, z, p.first_id + v, a, proven) / static_cast<double>(temperature);
      dz = through(p.transforms, product, dz);
    }
    if (!proven) block.count(p.status->open);
    *to = word_of(dz);
  }

  ISOLOGIT_DEVICE static double of_last_logit(const Derivation& p, const RowUpstream& up, const Summary& s, float z,
                                              int id, const Pair& a, bool& proven) {
    const Pair total = add({1.0, 0.0}, s.rest);
    const Pair mean = divide(s.moment, total);
    Pair value;
    double size = 0.0;  // of the terms
    double doubt = up.doubt;
    if (id == s.first) {
      const Pair own = multiply(a, s.rest);
      const Pair shape = multiply({up.c, 0.0}, mean);
      value = divide(add(add(up.others, own), negative(shape)), total);
      size = (fabs(up.others.hi) + fabs(own.hi) + fabs(shape.hi)) / total.hi;
    } else {
      value = a;
      size = fabs(a.hi);
      const Pair gap = sum_of(static_cast<double>(z), -static_cast<double>(s.top));
      if (gap.hi >= -kFarthest) {  // else p is below 2^-995, and so is what it makes of any upstream and weight
        const Pair share = divide(value_of(exponential(gap)), total);
        const Pair shape = multiply({up.c, 0.0}, add(gap, mean));
        value = add(value, multiply(share, add(up.all, negative(shape))));
        size += share.hi * (fabs(up.all.hi) + fabs(up.c) * (fabs(gap.hi) + mean.hi));
      }
    }
    if (up.d != 0.0) {
      const Pair each = divide({up.d, 0.0}, {static_cast<double>(up.ids), 0.0});
      value = add(value, each);
      size += fabs(each.hi);
    }
    doubt +=
        size * (p.summary_doubles == kWholeDoubles ? 0x1p-84 : 0x1p-46);  // a torch forward pass may have left them
    if (!(size + doubt < 0x1p1000)) return static_cast<double>(quiet_nan());
    proven = doubt <= fabs(value.hi) * 0x1p-20;
    return value.hi;
  }

  // The slopes of softcap and factor.
  ISOLOGIT_DEVICE static double through(const Transforms& steps, float product, double dz) {
    if (steps.factor_kind == kScale) dz = dz * static_cast<double>(steps.factor);
    if (steps.factor_kind == kDivide) dz = dz / static_cast<double>(steps.factor);
    if (steps.softcap == 0.0F) return dz;
    // 1 - tanh^2 = 4 e / (1 + e)^2, e = e^(-2 |z / c|)
    const double twice =
        2.0 * fabs(static_cast<double>(before_softcap(steps, product)) / static_cast<double>(steps.softcap));
    if (!(twice < kFarthest)) return 0.0 * dz;
    const double e = value_of(exponential({-twice, 0.0})).hi;
    return dz * (4.0 * e / ((1.0 + e) * (1.0 + e)));
  }
};

}  // namespace isologit::detail::cuda
