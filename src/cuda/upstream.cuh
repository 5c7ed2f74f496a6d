// The upstream gradients of a row, gathered: a warp a row.
//
// dz_v = A_v + p_v (B - c (z_v - top + moment / total)) + d / |S| within the support S and 0 outside it, A_v the sum of
// a over the ids that are v and B = b - sum of a, of ids outside S too (CONTRACT.md 5 with ln p = z - top - ln total
// and H = ln total + moment / total). Of the first of the greatest logits p = 1 - rest / total, and A + B is the same
// sum without the ids that are this one: `others`, from which nothing cancels.
#pragma once

#include "cuda/fold.cuh"
#include "cuda/summary.cuh"
#include "cuda/support.cuh"

namespace isologit::detail::cuda {

// Upstream gradients of all rows, each of which may be null.
struct Upstream {
  const std::int64_t* ids;  // [rows, ids_per_row]
  const float* logprobs;    // a, as many
  int ids_per_row;
  std::int64_t ignored;
  const float* lse;          // b
  const float* entropy;      // c
  const float* mean_logits;  // d

  ISOLOGIT_DEVICE static double of(const float* values, std::int64_t row) {
    return values == nullptr ? 0.0 : static_cast<double>(values[row]);
  }
  ISOLOGIT_DEVICE double a(std::int64_t at) const { return ids[at] == ignored ? 0.0 : of(logprobs, at); }
};

struct RowUpstream {
  Pair all, others;  // B, and b less the a of ids that are not the first of the greatest
  double c, d;
  double doubt;  // how far either sum may be off; no finite number: an upstream is none
  int active;    // 0: contributes exactly 0
  int ids;       // of the support; counted where d is not 0
};

struct Gathering {
  Upstream upstream;
  Support support;
  bool everything;  // is what the support has
  int rows, vocab;
  const double* summaries;
  int summary_doubles;
  RowUpstream* to;
  Status* status;
};

template <class BlockType>
struct Gather {
  using Block = BlockType;
  using Args = Gathering;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};
  struct Part {
    Pair all, others;
    double size, least;  // of what is not 0: the sum and the least of the magnitudes
    int active, counts;  // whether something is not 0; whether an id is not ignored
    int ids;             // as in RowUpstream
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Gathering& p, int tile, int) {
    block.each_warp([&](int warp) {
      const int row = tile * Block::kWarps + warp;
      if (row >= p.rows) return;
      typename Block::template PerLane<Part> parts;
      block.each_lane([&](int lane) { parts(lane) = part_of(block, p, row, lane); });
      block.reduce([&](int lane) -> Part& { return parts(lane); }, 1, 32,
                   [](Part& to, const Part& from) { merge_parts(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) write(p, row, parts(lane));
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static void merge_parts(Part& to, const Part& from) {
    to.all = add(to.all, from.all);
    to.others = add(to.others, from.others);
    to.size += from.size;
    to.least = from.least < to.least ? from.least : to.least;
    to.active |= from.active;
    to.counts |= from.counts;
    to.ids += from.ids;
  }
  ISOLOGIT_DEVICE static void note(Part& to, double x) {
    if (x == 0.0) return;
    to.active = 1;
    to.size += fabs(x);
    if (fabs(x) < to.least) to.least = fabs(x);
  }

  ISOLOGIT_DEVICE static Part part_of(Block& block, const Gathering& p, int row, int lane) {
    Part part = {{0.0, 0.0}, {0.0, 0.0}, 0.0, 0x1p200, 0, p.upstream.ids == nullptr ? 1 : 0, 0};
    if (lane == 0) {
      const double b = Upstream::of(p.upstream.lse, row);
      part.all = part.others = {b, 0.0};
      note(part, b);
      if (Upstream::of(p.upstream.entropy, row) != 0.0 || Upstream::of(p.upstream.mean_logits, row) != 0.0) {
        part.active = 1;
      }
    }
    if (Upstream::of(p.upstream.mean_logits, row) != 0.0) part.ids = ids_of(p, row, lane);
    const auto first = static_cast<std::int64_t>(p.summaries[static_cast<std::int64_t>(row) * p.summary_doubles + 1]);
    for (int k = lane; p.upstream.ids != nullptr && k < p.upstream.ids_per_row; k += 32) {
      const std::int64_t at = static_cast<std::int64_t>(row) * p.upstream.ids_per_row + k;
      const std::int64_t id = p.upstream.ids[at];
      if (id == p.upstream.ignored) continue;
      part.counts = 1;
      if (id < 0 || id >= p.vocab) {
        block.count(p.status->wrong);
        continue;
      }
      const double a = p.upstream.a(at);
      part.all = add(part.all, {-a, 0.0});
      if (id != first) part.others = add(part.others, {-a, 0.0});
      note(part, a);
    }
    return part;
  }

  // A lane's part of the support.
  ISOLOGIT_DEVICE static int ids_of(const Gathering& p, int row, int lane) {
    if (p.everything) return lane == 0 ? p.vocab : 0;
    int ids = 0;
    for (int v = lane; v < p.vocab; v += 32) ids += p.support.has(row, v) ? 1 : 0;
    return ids;
  }

  // All numbers are multiples of 2^-24 of the least: below 2^80 of it every sum is a pair and nothing was rounded.
  ISOLOGIT_DEVICE static void write(const Gathering& p, int row, const Part& part) {
    const double c = Upstream::of(p.upstream.entropy, row);
    const double doubt = part.size < part.least * 0x1p80 ? 0.0 : part.size * 0x1p-90;
    p.to[row] = {part.all,
                 part.others,
                 c,
                 Upstream::of(p.upstream.mean_logits, row),
                 doubt + 0.0 * c,  // NaN where c is not finite
                 part.active & part.counts,
                 part.ids};
  }
};

}  // namespace isologit::detail::cuda
