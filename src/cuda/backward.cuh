// Which kernels make gradients, in which order, and what memory they share. The vocabulary is walked a block at a time,
// all rows for each block, so that what belongs to the block's ids is finished and rounded once. Of [N, V] only a tile
// is ever in memory; of dhidden a sum in f64 stays. How much is made at a time changes no bit (outer.cuh, parts.cuh).
#pragma once

#include "cuda/outer.cuh"
#include "cuda/part_products.cuh"
#include "cuda/score.cuh"

namespace isologit::detail::cuda {

struct Gradient {
  void* data;  // null: not wanted
  int type;
  std::int64_t stride;
  bool accumulate;
};

struct BackwardRequest : HeadOperands {
  Transforms transforms;
  Upstream upstream;
  Support support;
  const double* summaries;  // [rows, kKeptDoubles], or null
  Gradient dhidden, dweight, dbias;
  bool fast;  // the arithmetic of the logits, as in LogitsRequest
  Status* status;
  void* workspace;
};

inline constexpr int kMostColumns = 2048;  // of a tile
static_assert(kMostColumns <= kMostGroups * kPartGroup && kRowsAtOnce <= kMostGroups * kPartGroup);

// Where parts for a product lie in a workspace: [rows, depth] of them, with their powers of two.
struct PartsPlan {
  std::int64_t rows, groups;  // up to kPartGroup, and of the depth
  std::int64_t words_at, units_at;
};
// And what is known of the rows of an operand of bf16.
struct SizesPlan {
  std::int64_t sizes_at, groups_at;
};

// Where what lies in a workspace. The memory of the forward pass is used again once that is over.
struct BackwardPlan {
  ScorePlan scores;
  std::int64_t rows;  // at a time
  int columns;
  std::int64_t gathered_at, summaries_at, dhidden_at, dweight_at, dbias_at, scores_at, tile_at, words_at, bytes;
  SizesPlan hidden_sizes, weight_sizes;  // of all rows, and of a block of the vocabulary
  PartsPlan by_rows, by_columns;
};
inline BackwardPlan backward_plan(std::int64_t rows, std::int64_t size, int hidden_type, int vocab, bool summaries) {
  BackwardPlan plan;
  ScoreRequest score = {};
  score.hidden.type = hidden_type;
  score.rows = rows;
  score.size = static_cast<int>(size);
  score.vocab = vocab;
  plan.scores = score_plan(score);
  plan.rows = plan.scores.rows;
  const std::int64_t fit = kPartBytes / 8 / size / 64 * 64;
  const std::int64_t columns = fit < 64 ? 64 : fit < kMostColumns ? fit : kMostColumns;
  plan.columns = static_cast<int>(columns < vocab ? columns : vocab);
  std::int64_t at = 0;
  const auto take = [&](std::int64_t bytes) {
    const std::int64_t begin = at;
    at = round_up(at + bytes, 16);
    return begin;
  };
  plan.gathered_at = take(rows * static_cast<std::int64_t>(sizeof(RowUpstream)));
  plan.summaries_at = take(summaries ? 0 : rows * kWholeDoubles * 8);
  plan.dhidden_at = take(plan.columns < vocab ? rows * size * 8 : 0);
  plan.dweight_at = take(plan.rows < rows ? plan.columns * size * 8 : 0);
  plan.dbias_at = take(plan.columns * 8);
  plan.scores_at = at;
  take(plan.scores.prepared.bytes);
  plan.tile_at = take(plan.rows * plan.columns * 4);
  plan.words_at = take(plan.rows * plan.columns * 4);
  const auto take_sizes = [&](std::int64_t count) {
    const std::int64_t groups = (count + kPartGroup - 1) / kPartGroup;
    const std::int64_t sizes_at = take(groups * kPartGroup * 4);
    return SizesPlan{sizes_at, take(groups * static_cast<std::int64_t>(sizeof(GroupRows)))};
  };
  plan.hidden_sizes = take_sizes(rows);
  plan.weight_sizes = take_sizes(plan.columns);
  const auto take_parts = [&](std::int64_t count, std::int64_t depth) {
    PartsPlan parts = {round_up(count, kPartGroup), (depth + kPartGroup - 1) / kPartGroup, 0, 0};
    parts.words_at = take(parts.rows * parts.groups * kPartGroup * 4);
    parts.units_at = take(parts.rows * parts.groups * 8);
    return parts;
  };
  plan.by_rows = take_parts(plan.rows, plan.columns);
  plan.by_columns = take_parts(plan.columns, plan.rows);
  const std::int64_t of_scores = plan.scores_at + (summaries ? 0 : plan.scores.bytes);
  plan.bytes = at > of_scores ? at : of_scores;
  return plan;
}

// One call of it; make(product) launches the kernels of logits of this weight's type, score(request, plan) those of a
// forward pass.
template <class Launcher, class Make, class Score>
class Backward {
  using Four = typename Launcher::template Block<4>;
  using Eight = typename Launcher::template Block<8>;
  using Twelve = typename Launcher::template Block<12>;

 public:
  Backward(Launcher& launcher, const BackwardRequest& request, const BackwardPlan& plan, Make make, Score score)
      : launcher_(launcher),
        r_(request),
        plan_(plan),
        make_(make),
        score_(score),
        memory_(static_cast<char*>(request.workspace)) {
    summaries_ = r_.summaries;
    summary_doubles_ = kKeptDoubles;
    gathered_ = reinterpret_cast<RowUpstream*>(memory_ + plan_.gathered_at);
    tile_ = reinterpret_cast<float*>(memory_ + plan_.tile_at);
    words_ = reinterpret_cast<std::uint32_t*>(memory_ + plan_.words_at);
  }

  void run() {
    if (summaries_ == nullptr) summarize();
    const int rows = static_cast<int>(r_.rows);
    launcher_.template launch<Gather<Eight>>((rows + Eight::kWarps - 1) / Eight::kWarps, 1,
                                             Gathering{r_.upstream, r_.support, r_.support.is_everything(), rows,
                                                       r_.vocab, summaries_, summary_doubles_, gathered_, r_.status});
    if (by_parts(r_.dweight, r_.hidden)) measure(r_.hidden, rows, gathered_, plan_.hidden_sizes);
    for (int v = 0; v < r_.vocab; v += plan_.columns) {
      if (by_parts(r_.dhidden, r_.weight)) {
        const int columns = r_.vocab - v < plan_.columns ? r_.vocab - v : plan_.columns;
        measure({at(r_.weight, v), r_.weight.stride, r_.weight.type}, columns, nullptr, plan_.weight_sizes);
      }
      for (std::int64_t first = 0; first < r_.rows; first += plan_.rows) walk(v, first);
    }
  }

 private:
  // The forward pass, for what gradients need of it alone.
  void summarize() {
    auto* summaries = reinterpret_cast<double*>(memory_ + plan_.summaries_at);
    ScoreRequest score = {};
    static_cast<HeadOperands&>(score) = r_;
    score.transforms = r_.transforms;
    score.support = r_.support;
    score.status = r_.status;
    score.summaries = summaries;
    score.summary_doubles = summary_doubles_ = kWholeDoubles;
    score.fast = r_.fast;
    score.workspace = memory_ + plan_.scores_at;
    score_(score, plan_.scores);
    summaries_ = summaries;
  }

  // A block of the vocabulary and some rows: their part of all gradients.
  void walk(int v, std::int64_t first) {
    const int rows = static_cast<int>(r_.rows - first < plan_.rows ? r_.rows - first : plan_.rows);
    const int columns = r_.vocab - v < plan_.columns ? r_.vocab - v : plan_.columns;
    const void* weight = at(r_.weight, v);
    Product p = prepared(launcher_, r_, first, rows, memory_ + plan_.scores_at, plan_.scores.prepared, r_.fast);
    p.logits = tile_;
    p.logits_stride = p.vocab = columns;
    p.weight = weight;
    p.bias_type = r_.bias_type;
    if (r_.bias != nullptr) p.bias = static_cast<const char*>(r_.bias) + v * element_size(r_.bias_type);
    make_(p);
    using Derived = Derive<Eight>;
    launcher_.template launch<Derived>((columns + Derived::kIds - 1) / Derived::kIds, rows,
                                       Derivation{tile_, columns, v, columns, r_.transforms, r_.upstream, r_.support,
                                                  gathered_, summaries_, summary_doubles_, first, words_, r_.status});
    make_parts(rows, columns, first);
    if (r_.dhidden.data != nullptr) {
      Gradient to = r_.dhidden;
      to.data = moved(to, first * to.stride);
      outer<true>({weight, r_.weight.stride, r_.weight.type}, rows, columns, to, v == 0, v + columns == r_.vocab,
                  plan_.dhidden_at + first * r_.size * 8, first);
    }
    const bool begins = first == 0;
    const bool ends = first + rows == r_.rows;
    if (r_.dweight.data != nullptr) {
      Gradient to = r_.dweight;
      to.data = moved(to, v * to.stride);
      outer<false>({at(r_.hidden, first), r_.hidden.stride, r_.hidden.type}, columns, rows, to, begins, ends,
                   plan_.dweight_at, first);
    }
    if (r_.dbias.data != nullptr) {
      launcher_.template launch<SumColumns<Eight>>(
          (columns + Eight::kThreads - 1) / Eight::kThreads, 1,
          ColumnSum{words_, columns, columns, rows, reinterpret_cast<double*>(memory_ + plan_.dbias_at), begins, ends,
                    moved(r_.dbias, v), r_.dbias.type});
    }
  }

  static const void* at(const Operand& operand, std::int64_t row) {
    return static_cast<const char*>(operand.data) + row * operand.stride * element_size(operand.type);
  }
  static void* moved(const Gradient& gradient, std::int64_t elements) {
    return static_cast<char*>(gradient.data) + elements * element_size(gradient.type);
  }

  // Whether a gradient is made of parts: if it is wanted, and what dz is multiplied with is bf16.
  static bool by_parts(const Gradient& gradient, const Operand& other) {
    return gradient.data != nullptr && other.type == kBf16;
  }

  void measure(const Operand& operand, int rows, const RowUpstream* upstreams, const SizesPlan& to) {
    using Kernel = Measure<Eight>;
    launcher_.template launch<Kernel>(
        static_cast<int>(round_up(rows, kPartGroup)) / Kernel::kRows, 1,
        Measuring{operand.data, operand.stride, is_aligned(operand, r_.size), rows, r_.size, upstreams, sizes(to),
                  reinterpret_cast<GroupRows*>(memory_ + to.groups_at)});
  }
  int* sizes(const SizesPlan& plan) const { return reinterpret_cast<int*>(memory_ + plan.sizes_at); }

  Parts parts(const PartsPlan& plan, const int* sizes) const {
    return {reinterpret_cast<std::uint32_t*>(memory_ + plan.words_at), plan.groups * kPartGroup,
            reinterpret_cast<double*>(memory_ + plan.units_at), plan.rows, sizes};
  }

  // Of the words of a walk, for the products that are made of parts.
  void make_parts(int rows, int columns, std::int64_t first) {
    PartMaking making = {words_, columns, rows, columns, {}, {}};
    if (by_parts(r_.dhidden, r_.weight)) making.by_rows = parts(plan_.by_rows, sizes(plan_.weight_sizes));
    if (by_parts(r_.dweight, r_.hidden)) {
      making.by_cols = parts(plan_.by_columns, sizes(plan_.hidden_sizes) + first);
    }
    if (making.by_rows.words == nullptr && making.by_cols.words == nullptr) return;
    launcher_.template launch<MakeParts<Eight>>(static_cast<int>(round_up(rows, kPartGroup)) / kPartGroup,
                                                static_cast<int>(round_up(columns, kPartGroup)) / kPartGroup, making);
  }

  // One of the two products, [rows, depth] of dz by `other`.
  template <bool BY_ROWS>
  void outer(const Operand& other, int rows, int depth, const Gradient& to, bool begins, bool ends,
             std::int64_t sums_at, std::int64_t first_row) {
    const GradientSums sums{rows,
                            r_.size,
                            reinterpret_cast<double*>(memory_ + sums_at),
                            begins,
                            ends,
                            to.data,
                            to.type,
                            to.stride,
                            to.accumulate,
                            gathered_ + first_row};
    const bool aligned = is_aligned(other, r_.size);
    const std::int64_t words_stride = BY_ROWS ? depth : rows;
    const auto launch = [&]<class Kernel>(int row_side, int col_side, const typename Kernel::Args& product) {
      launcher_.template launch<Kernel>((rows + row_side - 1) / row_side, (r_.size + col_side - 1) / col_side, product);
    };
    if (other.type == kBf16) {
      const Parts from = parts(BY_ROWS ? plan_.by_rows : plan_.by_columns, nullptr);
      const std::int64_t groups_at = BY_ROWS ? plan_.weight_sizes.groups_at : plan_.hidden_sizes.groups_at;
      const std::int64_t first_group = BY_ROWS ? 0 : first_row / kPartGroup;
      const PartProduct product{
          sums,       from.words,       from.stride,
          from.units, from.unit_stride, reinterpret_cast<const GroupRows*>(memory_ + groups_at) + first_group,
          other.data, other.stride,     aligned,
          depth,      words_,           words_stride};
      using Many = PartProducts<Twelve, BY_ROWS, 4>;
      using Few = PartProducts<Four, BY_ROWS, 2>;
      if (rows <= Few::kRows) {
        launch.template operator()<Few>(Few::kRows, Few::kCols, product);
      } else {
        launch.template operator()<Many>(Many::kRows, Many::kCols, product);
      }
      return;
    }
    const OuterProduct product{sums, words_, words_stride, other.data, other.stride, aligned, depth};
    if (other.type == kF16) {
      using Kernel = Outer<Four, F16, BY_ROWS>;
      launch.template operator()<Kernel>(Kernel::kSide, Kernel::kSide, product);
    } else {
      using Kernel = Outer<Four, F32, BY_ROWS>;
      launch.template operator()<Kernel>(Kernel::kSide, Kernel::kSide, product);
    }
  }

  Launcher& launcher_;
  const BackwardRequest& r_;
  const BackwardPlan& plan_;
  Make make_;
  Score score_;
  char* memory_;
  const double* summaries_;
  int summary_doubles_;
  RowUpstream* gathered_;
  float* tile_;
  std::uint32_t* words_;
};

template <class Launcher, class Make, class Score>
void launch_backward(Launcher& launcher, const BackwardRequest& request, const BackwardPlan& plan, Make make,
                     Score score) {
  Backward<Launcher, Make, Score>(launcher, request, plan, make, score).run();
}

}  // namespace isologit::detail::cuda
