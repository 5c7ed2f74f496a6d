// Attention over keys in any blocks and pages, no [T, T] in memory: for one kv head and a few queries, blocks of keys
// and values are widened once, and each row of queries and heads keeps running sums in f64 in units of a power of two,
// so that a later, greater score rescales them exactly.
//
// Errors, u = 2^-53, n keys in blocks of kBlock: a weight e^s is within E + 2^-50 of itself, E the bound of the scores'
// errors (kernels/forward_loops.hpp); sums are chains of kBlock terms with two roundings each and of n / kBlock blocks.
// So the numerator is within delta W max|v| and the denominator within delta W of themselves, W the sum of weights, and
// the quotient within 2 delta max|v| and its own rounding. A weight below 2^-490 of the greatest may be lost on
// rescaling: n 2^-490.
#include <algorithm>
#include <cmath>
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
constexpr std::int64_t kBlock = 64;       // keys
constexpr std::int64_t kRowsAPiece = 32;  // of queries and the heads that share a kv head
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
        scores_(kBlock),
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
      for (std::size_t r = 0; r < rows_.size(); ++r) absorb(r, block);
    }
    std::int64_t settled = 0;
    for (std::size_t r = 0; r < rows_.size(); ++r) settled += finish(r, queries.sequence);
    return settled;
  }

 private:
  void begin(const Queries& queries) {
    rows_.clear();
    const std::int64_t count = (queries.last_token - queries.first_token) * group_;
    q_.assign(static_cast<std::size_t>(count * dim_), 0.0F);
    sums_.assign(static_cast<std::size_t>(count * value_dim_), 0.0);
    for (std::int64_t token = queries.first_token; token < queries.last_token; ++token) {
      for (std::int64_t head = queries.kv_head * group_; head < (queries.kv_head + 1) * group_; ++head) {
        float* q = q_.data() + static_cast<std::int64_t>(rows_.size()) * dim_;
        load_row(request_.q, token, head, q);
        Sums sums{token, head, seen_by(request_, queries.sequence, token)};
        sums.length = std::sqrt(loops_.dot(q, q, dim_));
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

  void load(const Keys& keys, std::int64_t kv_head, const Seen& block) {
    greatest_key_ = 0;
    greatest_value_ = 0;
    finite_ = true;
    for (std::int64_t j = block.begin; j < block.end; ++j) {
      float* k = k_.data() + (j - block.begin) * dim_;
      float* v = v_.data() + (j - block.begin) * value_dim_;
      exact::widen_row(keys.key(j, kv_head), request_.kv.keys.dtype, request_.q.dim, k);
      exact::widen_row(keys.value(j, kv_head), request_.kv.values.dtype, request_.kv.values.dim, v);
      // NaN and infinities reach the sums of squares.
      const double squares = loops_.dot(k, k, dim_);
      const double value_squares = loops_.dot(v, v, value_dim_);
      finite_ = finite_ && std::isfinite(squares + value_squares);
      greatest_key_ = std::max(greatest_key_, squares);
      greatest_value_ = std::max(greatest_value_, value_squares);
    }
    greatest_key_ = std::sqrt(greatest_key_);
    greatest_value_ = std::sqrt(greatest_value_);
  }

  void absorb(std::size_t r, const Seen& block) {
    Sums& sums = rows_[r];
    const std::int64_t begin = std::max(block.begin, sums.seen.begin);
    const std::int64_t count = std::min(block.end, sums.seen.end) - begin;
    if (count <= 0 || sums.unreal) return;
    const auto scale = static_cast<double>(request_.scale);
    const auto cap = static_cast<double>(request_.softcap);
    const double most = scale * sums.length * greatest_key_;
    if (!finite_ || (cap != 0 ? cap : most) > kMostScore || !(most < 0x1p500)) {
      sums.unreal = true;
      return;
    }
    const auto at = static_cast<std::int64_t>(r);
    const double greatest = loops_.scores(q_.data() + at * dim_, k_.data() + (begin - block.begin) * dim_, dim_, count,
                                          scale, cap, scores_.data());
    const bool first = sums.weight == 0;
    double* o = sums_.data() + at * value_dim_;
    const auto wanted = static_cast<std::int64_t>(std::nearbyint(greatest * kernels::kLog2E));
    if (first || wanted > sums.scale + 500) {
      const double factor =
          first ? 0 : std::ldexp(1, static_cast<int>(std::max<std::int64_t>(sums.scale - wanted, -2000)));
      sums.weight *= factor;
      for (std::int64_t d = 0; d < value_dim_; ++d) o[d] *= factor;
      sums.scale = wanted;
    }
    sums.weight += loops_.weigh(scores_.data(), count, sums.scale);
    loops_.accumulate(scores_.data(), v_.data() + (begin - block.begin) * value_dim_, value_dim_, count, o);
    // |x| <= |v|, so the lengths bound every element; a hundredth covers their own rounding.
    sums.error = std::max(sums.error, 1.01 * ((static_cast<double>(dim_) + 16) * kUnit * most + cap * 0x1p-46));
    sums.greatest = std::max(sums.greatest, 1.01 * greatest_value_);
  }

  std::int64_t finish(std::size_t r, std::int64_t sequence) {
    const Sums& sums = rows_[r];
    const std::int64_t dim = request_.kv.values.dim;
    const double* o = sums_.data() + static_cast<std::int64_t>(r) * value_dim_;
    const double keys = static_cast<double>(sums.seen.end - sums.seen.begin);
    const double delta = 1.01 * sums.error + 0x1p-50 + (2 * kBlock + keys / kBlock + 8) * kUnit + keys * 0x1p-480;
    const double error = sums.unreal ? std::numeric_limits<double>::infinity() : 2.01 * delta * sums.greatest;
    for (std::int64_t d = 0; d < dim; ++d) {
      row_.values()[d] = sums.weight == 0 ? 0 : o[d] / sums.weight;
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
  std::vector<float> q_, k_, v_;
  std::vector<double> sums_, scores_;
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
