// Attention over keys in any blocks and pages, no [T, T] in memory: for one kv head and a few queries, blocks of keys
// and values are widened once, and each row of queries and heads keeps running sums in f64 in units of a power of two,
// so that a later, greater score rescales them exactly. Scores, and what a block adds to the sums, are products of f64
// of all rows that see some of the block: a key that a row does not see weighs 0 there.
//
// Errors, u = 2^-53, n keys in blocks of kBlock: a weight e^s is within E + 2^-50 of itself, E the bound of the scores'
// errors (kernels/forward_loops.hpp); sums are chains of kBlock terms with two roundings each and of n / kBlock blocks.
// So the numerator is within delta W max|v| and the denominator within delta W of themselves, W the sum of weights, and
// the quotient within 2 delta max|v|; the denominator's sum rounds half as often as delta has it, which leaves room for
// the roundings of its reciprocal and the product. A weight below 2^-490 of the greatest may be lost on rescaling:
// n 2^-490.
//
// Predicted of 256 tokens, 16 heads of 128 elements and 8 kv heads: products at two multiply-adds a cycle, 3.4 ms,
// twice as much in all; measured, by the time of a processor that others used too: 12.5 (18.4 row by row with keys in
// f32), two fifths of it products, the rest what is done to each key, score and row.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <vector>

#include "base/asking.hpp"
#include "base/text.hpp"
#include "exact/row.hpp"
#include "forward/attention_row.hpp"
#include "forward/validate.hpp"
#include "kernels/exp.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

constexpr double kUnit = 0x1p-53;
constexpr std::int64_t kBlock = 32;       // keys, which of 128 elements are 32 KiB
constexpr std::int64_t kRowsAPiece = 64;  // of queries and the heads that share a kv head
constexpr double kMostScore = 0x1p19;

// Some queries of a sequence and the heads of one kv head.
struct Queries {
  std::int64_t sequence;
  std::int64_t kv_head;
  std::int64_t first_token;
  std::int64_t last_token;
};

// The running sums of one query and head.
struct Sums {
  std::int64_t token;
  std::int64_t head;
  Seen seen;
  double length = 0;  // of q
  std::int64_t scale = 0;
  double weight = 0;
  double error = 0;     // of its scores
  double greatest = 0;  // |v|
  bool unreal = false;  // NaN, infinities or huge scores: by the definition
};

class Worker {
 public:
  Worker(const AttentionRequest& request, const kernels::ForwardLoops& loops)
      : request_(request),
        loops_(loops),
        group_(request.q.heads / request.kv.keys.heads),
        dim_(kernels::padded(request.q.dim)),
        value_dim_(kernels::padded(request.kv.values.dim)),
        k_(static_cast<std::size_t>(kBlock * dim_)),
        v_(static_cast<std::size_t>(kBlock * value_dim_)),
        floats_(static_cast<std::size_t>(std::max(dim_, value_dim_))),
        scores_(kernels::padded(kBlock)),
        row_(request.kv.values.dim) {}

  std::int64_t run(const Queries& queries) {
    begin(queries);
    const Keys keys(request_.kv, queries.sequence);
    std::int64_t first = std::numeric_limits<std::int64_t>::max();
    std::int64_t last = 0;
    for (const Sums& sums : rows_) {
      if (sums.seen.begin == sums.seen.end) continue;
      first = std::min(first, sums.seen.begin);
      last = std::max(last, sums.seen.end);
    }
    for (std::int64_t j = first; j < last; j += kBlock) {
      base::go_on_or_throw();
      const Seen block{j, std::min(j + kBlock, last)};
      load(keys, queries.kv_head, block);
      absorb(block);
    }
    std::int64_t settled = 0;
    for (std::size_t r = 0; r < rows_.size(); ++r) settled += finish(r, queries.sequence);
    return settled;
  }

 private:
  void begin(const Queries& queries) {
    rows_.clear();
    const std::int64_t count = (queries.last_token - queries.first_token) * group_;
    q_.resize(static_cast<std::size_t>(count * dim_));
    weights_.resize(static_cast<std::size_t>(count * kBlock));
    sums_.assign(static_cast<std::size_t>(count * value_dim_), 0.0);
    for (std::int64_t token = queries.first_token; token < queries.last_token; ++token) {
      for (std::int64_t head = queries.kv_head * group_; head < (queries.kv_head + 1) * group_; ++head) {
        double* q = q_.data() + static_cast<std::int64_t>(rows_.size()) * dim_;
        Sums sums{token, head, seen_by(request_, queries.sequence, token)};
        sums.length = std::sqrt(widen(row_of(request_.q, token, head), request_.q.dtype, request_.q.dim, q));
        sums.unreal = !std::isfinite(sums.length);
        if (!request_.sinks.empty())
          add_sink(static_cast<double>(request_.sinks[static_cast<std::size_t>(head)]), sums);
        rows_.push_back(sums);
      }
    }
  }

  void add_sink(double sink, Sums& sums) {
    if (sink == -std::numeric_limits<double>::infinity()) return;
    if (!(std::fabs(sink) < kMostScore)) {
      sums.unreal = true;
      return;
    }
    sums.scale = static_cast<std::int64_t>(std::nearbyint(sink * kernels::kLog2E));
    scores_[0] = sink;
    sums.weight = loops_.weigh(scores_.data(), 1, sums.scale);
  }

  // As f64, with zeros to a multiple of kLaneGroup; returns the sum of squares, which NaN and infinities reach.
  double widen(const void* row, DType dtype, std::int64_t dim, double* to) {
    const std::int64_t whole = kernels::padded(dim);
    exact::widen_row(row, dtype, dim, floats_.data());
    std::fill(floats_.data() + dim, floats_.data() + whole, 0.0F);
    return loops_.widen(floats_.data(), whole, to);
  }

  void load(const Keys& keys, std::int64_t kv_head, const Seen& block) {
    const TensorView& k = request_.kv.keys;
    const TensorView& v = request_.kv.values;
    greatest_key_ = 0;
    greatest_value_ = 0;
    finite_ = true;
    for (std::int64_t j = block.begin; j < block.end; ++j) {
      const std::int64_t at = j - block.begin;
      const double squares = widen(keys.key(j, kv_head), k.dtype, request_.q.dim, k_.data() + at * dim_);
      const double value_squares = widen(keys.value(j, kv_head), v.dtype, v.dim, v_.data() + at * value_dim_);
      finite_ = finite_ && std::isfinite(squares + value_squares);
      greatest_key_ = std::max(greatest_key_, squares);
      greatest_value_ = std::max(greatest_value_, value_squares);
    }
    greatest_key_ = std::sqrt(greatest_key_);
    greatest_value_ = std::sqrt(greatest_value_);
  }

  // What of the block the row sees.
  static Seen part_of(const Seen& block, const Sums& sums) {
    return {std::max(block.begin, sums.seen.begin), std::min(block.end, sums.seen.end)};
  }

  void absorb(const Seen& block) {
    const auto sees = [&](const Sums& sums) {
      const Seen part = part_of(block, sums);
      return part.begin < part.end && !sums.unreal;
    };
    const auto from = std::find_if(rows_.begin(), rows_.end(), sees);
    const auto end = std::find_if(rows_.rbegin(), std::make_reverse_iterator(from), sees).base();
    if (from == end) return;
    const std::int64_t first = from - rows_.begin();
    const std::int64_t rows = end - from;
    const std::int64_t count = block.end - block.begin;
    double* weights = weights_.data() + first * kBlock;
    loops_.products(q_.data() + first * dim_, rows, k_.data(), count, dim_, weights, kBlock);
    for (std::int64_t r = first; r < first + rows; ++r) weigh(r, block);
    if (finite_)
      loops_.accumulate(weights, rows, kBlock, v_.data(), value_dim_, count, sums_.data() + first * value_dim_);
  }

  // Makes weights of the products of row r with the keys of the block.
  void weigh(std::int64_t r, const Seen& block) {
    Sums& sums = rows_[static_cast<std::size_t>(r)];
    double* weights = weights_.data() + r * kBlock;
    const Seen part = part_of(block, sums);
    const std::int64_t count = part.end - part.begin;
    const auto scale = static_cast<double>(request_.scale);
    const auto cap = static_cast<double>(request_.softcap);
    const double most = scale * sums.length * greatest_key_;
    const bool sees = count > 0 && !sums.unreal;
    if (sees && (!finite_ || (cap != 0 ? cap : most) > kMostScore || !(most < 0x1p500))) sums.unreal = true;
    if (!sees || sums.unreal) {
      std::fill(weights, weights + kBlock, 0.0);
      return;
    }
    std::copy_n(weights + (part.begin - block.begin), count, scores_.data());
    const double greatest = loops_.scores(scores_.data(), count, scale, cap);
    rescale(r, greatest);
    sums.weight += loops_.weigh(scores_.data(), count, sums.scale);
    std::fill(weights, weights + kBlock, 0.0);
    std::copy_n(scores_.data(), count, weights + (part.begin - block.begin));
    // |x| <= |v|, so the lengths bound every element; a hundredth covers their own rounding.
    sums.error = std::max(sums.error, 1.01 * ((static_cast<double>(dim_) + 16) * kUnit * most + cap * 0x1p-46));
    sums.greatest = std::max(sums.greatest, 1.01 * greatest_value_);
  }

  // Takes the sums to units that a weight of e^greatest fits in.
  void rescale(std::int64_t r, double greatest) {
    Sums& sums = rows_[static_cast<std::size_t>(r)];
    const bool first = sums.weight == 0;
    const auto wanted = static_cast<std::int64_t>(std::nearbyint(greatest * kernels::kLog2E));
    if (!first && wanted <= sums.scale + 500) return;
    const double factor =
        first ? 0 : std::ldexp(1, static_cast<int>(std::max<std::int64_t>(sums.scale - wanted, -2000)));
    sums.weight *= factor;
    double* o = sums_.data() + r * value_dim_;
    for (std::int64_t d = 0; d < value_dim_; ++d) o[d] *= factor;
    sums.scale = wanted;
  }

  std::int64_t finish(std::size_t r, std::int64_t sequence) {
    const Sums& sums = rows_[r];
    const std::int64_t dim = request_.kv.values.dim;
    const double* o = sums_.data() + static_cast<std::int64_t>(r) * value_dim_;
    const double keys = static_cast<double>(sums.seen.end - sums.seen.begin);
    const double delta = 1.01 * sums.error + 0x1p-50 + (2 * kBlock + keys / kBlock + 8) * kUnit + keys * 0x1p-480;
    const double error = sums.unreal ? std::numeric_limits<double>::infinity() : 2.01 * delta * sums.greatest;
    const double inverse = sums.weight == 0 ? 0 : 1 / sums.weight;
    for (std::int64_t d = 0; d < dim; ++d) {
      row_.values()[d] = o[d] * inverse;
      row_.errors()[d] = error;
    }
    std::optional<AttentionRow> exact_row;
    return row_.finish(&loops_, dim, request_.q.dtype, row_of(request_.y, request_.q.dtype, sums.token, sums.head),
                       [&](std::int64_t d) {
                         if (!exact_row) exact_row.emplace(request_, sequence, sums.token, sums.head);
                         return exact_row->result(d);
                       });
  }

  const AttentionRequest& request_;
  const kernels::ForwardLoops& loops_;
  std::int64_t group_, dim_, value_dim_;
  std::vector<double> q_, k_, v_;
  std::vector<float> floats_;    // a row of one of these, before
  std::vector<double> weights_;  // [rows, kBlock], of the block at hand
  std::vector<double> sums_;     // [rows, value_dim]
  std::vector<double> scores_;   // of a row
  std::vector<Sums> rows_;
  double greatest_key_ = 0, greatest_value_ = 0;  // lengths, of a block's
  bool finite_ = true;
  Row row_;
};

std::int64_t by_definition(const AttentionRequest& request, const Queries& queries) {
  Row row(request.kv.values.dim);
  const std::int64_t group = request.q.heads / request.kv.keys.heads;
  std::int64_t settled = 0;
  for (std::int64_t token = queries.first_token; token < queries.last_token; ++token) {
    for (std::int64_t head = queries.kv_head * group; head < (queries.kv_head + 1) * group; ++head) {
      AttentionRow exact_row(request, queries.sequence, token, head);
      settled +=
          row.finish(nullptr, request.kv.values.dim, request.q.dtype, row_of(request.y, request.q.dtype, token, head),
                     [&](std::int64_t d) { return exact_row.result(d); });
    }
  }
  return settled;
}

std::vector<Queries> pieces_of(const AttentionRequest& request) {
  std::vector<Queries> pieces;
  const std::int64_t group = request.q.heads / request.kv.keys.heads;
  const std::int64_t count = std::max<std::int64_t>(kRowsAPiece / group, 1);
  for (std::size_t s = 0; s < request.key_counts.size(); ++s) {
    const std::int64_t end = request.query_starts[s + 1];
    for (std::int64_t t = request.query_starts[s]; t < end; t += count) {
      for (std::int64_t kv_head = 0; kv_head < request.kv.keys.heads; ++kv_head) {
        pieces.push_back({static_cast<std::int64_t>(s), kv_head, t, std::min(t + count, end)});
      }
    }
  }
  return pieces;
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> attention(const AttentionRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate_attention(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_of(own);
    if (!setting) return tl::unexpected(setting.error());
    const std::vector<Queries> pieces = pieces_of(request);
    return run(*setting, static_cast<std::int64_t>(pieces.size()), 1, [&](int, std::int64_t begin, std::int64_t) {
      const Queries& queries = pieces[static_cast<std::size_t>(begin)];
      if (setting->loops == nullptr) return by_definition(request, queries);
      return Worker(request, *setting->loops).run(queries);
    });
  };
  return detail::tiles::call(options, "computing attention; nothing useful is in the output", work);
}

}  // namespace isologit::forward
