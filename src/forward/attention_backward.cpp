// Gradients of attention, with nothing of size [T, T] in memory: one piece of work is the queries of one sequence and
// one kv head, whose scores are made again a few rows at a time. With p_j the weights of a row and a_j = dy v_j:
//   D = sum of p_j a_j, ds_j = p_j (a_j - D) (1 - (s_j / c)^2) scale with the last factor where there is a softcap,
//   dq = sum of ds_j k_j, dk_j = sum of ds_j q and dv_j = sum of p_j dy over the rows that see j, dsink = -p_sink D.
// Sums over rows run in their order, kRows of them in a chain.
//
// Errors, u = 2^-53, n keys seen: a score is within E = (dim + 16) u scale |q| |k_j| + 2^-46 c of itself and once more
// E by the subtraction of the greatest, so p_j is within 2 E + n u + 2^-49 and the rest adds n + dim + 16 roundings.
// What is not finite makes its row's terms NaN.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/asking.hpp"
#include "base/text.hpp"
#include "exact/row.hpp"
#include "forward/keys.hpp"
#include "forward/validate.hpp"
#include "isologit/forward_backward.hpp"
#include "kernels/fold_loops.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::AttentionBackwardRequest;
using isologit::forward::KeyValues;

constexpr std::int64_t kRows = 32;  // of queries and the heads that share a kv head, side by side

// The keys, or the values, of a kv head as f64, and the sums of their gradients.
struct Side {
  Side(const TensorView& x, std::int64_t count)
      : dim(kernels::padded(x.dim)),
        rows(static_cast<std::size_t>(count * dim)),
        sums(static_cast<std::size_t>(count * dim)) {}
  const double* row(std::int64_t j) const { return rows.data() + j * dim; }
  double* sum(std::int64_t j) { return sums.data() + j * dim; }

  std::int64_t dim;
  std::vector<double> rows;
  std::vector<double> sums;
};

// A query's head.
struct QueryRow {
  std::int64_t token;
  std::int64_t head;
  Seen seen;
};

class KvHead {
 public:
  KvHead(const AttentionBackwardRequest& request, const kernels::ForwardLoops& loops, double* dsinks,
         std::int64_t sequence, std::int64_t kv_head)
      : request_(request),
        attention_(request.attention),
        loops_(loops),
        dsinks_(dsinks),
        sequence_(static_cast<std::size_t>(sequence)),
        kv_head_(kv_head),
        count_(attention_.key_counts[sequence_]),
        keys_(attention_.kv.keys, count_),
        values_(attention_.kv.values, count_),
        q_(static_cast<std::size_t>(kRows * keys_.dim)),
        dy_(static_cast<std::size_t>(kRows * values_.dim)),
        dq_(static_cast<std::size_t>(keys_.dim)),
        stride_(kernels::padded(count_ + kernels::kLaneGroup)),
        scores_(static_cast<std::size_t>(kRows * stride_)),
        along_(scores_.size()),
        slopes_(attention_.softcap == 0 ? 0 : static_cast<std::size_t>(stride_)),
        weights_(static_cast<std::size_t>(count_ * kRows)),
        dscores_(static_cast<std::size_t>(count_ * kRows)),
        floats_(static_cast<std::size_t>(std::max(keys_.dim, values_.dim))),
        out_(std::max(keys_.dim, values_.dim)) {}

  void run() {
    const Keys keys(attention_.kv, static_cast<std::int64_t>(sequence_));
    for (std::int64_t j = 0; j < count_; ++j) {
      widen(keys.key(j, kv_head_), attention_.q.dim, keys_.rows.data() + j * keys_.dim);
      widen(keys.value(j, kv_head_), attention_.kv.values.dim, values_.rows.data() + j * values_.dim);
    }
    const std::int64_t group = attention_.q.heads / attention_.kv.keys.heads;
    for (std::int64_t token = attention_.query_starts[sequence_]; token < attention_.query_starts[sequence_ + 1];
         ++token) {
      for (std::int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) {
        base::go_on_or_throw();
        const auto r = static_cast<std::int64_t>(rows_.size());
        widen(row_of(attention_.q, token, head), attention_.q.dim, q_.data() + r * keys_.dim);
        widen(row_of(request_.dy, token, head), attention_.kv.values.dim, dy_.data() + r * values_.dim);
        rows_.push_back({token, head, seen_by(attention_, static_cast<std::int64_t>(sequence_), token)});
        if (rows_.size() == kRows) add_rows();
      }
    }
    add_rows();
    const std::int64_t first = attention_.kv.first_keys[sequence_];
    for (std::int64_t j = 0; j < count_; ++j) {
      store(keys_.sum(j), attention_.q.dim, request_.dkeys, first + j, kv_head_);
      store(values_.sum(j), attention_.kv.values.dim, request_.dvalues, first + j, kv_head_);
    }
  }

 private:
  void store(const double* sums, std::int64_t dim, const TensorOutput& to, std::int64_t token, std::int64_t head) {
    if (to.data == nullptr) return;
    std::copy(sums, sums + dim, out_.values());
    out_.store(loops_, dim, attention_.q.dtype, row_of(to, attention_.q.dtype, token, head));
  }

  void widen(const void* row, std::int64_t dim, double* to) {
    const std::int64_t whole = kernels::padded(dim);
    exact::widen_row(row, attention_.q.dtype, dim, floats_.data());
    std::fill(floats_.data() + dim, floats_.data() + whole, 0.0F);
    loops_.widen(floats_.data(), whole, to);
  }

  // What the rows at hand give.
  void add_rows() {
    const auto rows = static_cast<std::int64_t>(rows_.size());
    if (rows == 0) return;
    // Queries are in order, and what they see begins and ends no earlier than for those before.
    first_ = rows_.front().seen.begin;
    const std::int64_t keys = rows_.back().seen.end - first_;
    if (keys > 0) {
      loops_.products(q_.data(), rows, keys_.row(first_), keys, keys_.dim, scores_.data(), stride_);
      loops_.products(dy_.data(), rows, values_.row(first_), keys, values_.dim, along_.data(), stride_);
    }
    for (std::int64_t r = 0; r < rows; ++r) add_row(r);
    add_to_keys();
    rows_.clear();
  }

  void add_row(std::int64_t r) {
    const QueryRow& row = rows_[static_cast<std::size_t>(r)];
    std::fill(dq_.begin(), dq_.end(), 0.0);
    const std::int64_t seen = row.seen.end - row.seen.begin;
    if (seen > 0) {
      const std::int64_t place = r * stride_ + row.seen.begin - first_;
      double* weights = scores_.data() + place;
      double* along = along_.data() + place;
      const double sink = weigh(row.head, weights, seen);
      const double total = differentiate(weights, along, seen);
      if (dsinks_ != nullptr) dsinks_[row.token * attention_.q.heads + row.head] = -sink * total;
      for (std::int64_t j = 0; j < seen; ++j) {
        const auto at = static_cast<std::size_t>((row.seen.begin + j) * kRows + r);
        weights_[at] = weights[j];
        dscores_[at] = along[j];
      }
      loops_.accumulate(along, 1, 0, keys_.row(row.seen.begin), keys_.dim, seen, dq_.data());
    }
    store(dq_.data(), attention_.q.dim, request_.dq, row.token, row.head);
  }

  // Makes the row's weights p of its products; returns p of the sink.
  double weigh(std::int64_t head, double* scores, std::int64_t seen) {
    const auto cap = static_cast<double>(attention_.softcap);
    double greatest = loops_.scores(scores, seen, static_cast<double>(attention_.scale), cap);
    for (std::int64_t j = 0; cap != 0 && j < seen; ++j) {
      const double t = scores[j] / cap;
      slopes_[static_cast<std::size_t>(j)] = (1 - t) * (1 + t);
    }
    const double sink = attention_.sinks.empty()
                            ? -std::numeric_limits<double>::infinity()
                            : static_cast<double>(attention_.sinks[static_cast<std::size_t>(head)]);
    greatest = std::max(greatest, sink);
    double unreal = 0;  // or NaN
    for (std::int64_t j = 0; j < seen; ++j) {
      scores[j] -= greatest;
      unreal += scores[j] * 0;
    }
    double total = loops_.weigh(scores, seen, 0) + unreal;
    const double sink_weight = std::exp(sink - greatest);
    total += sink_weight;
    for (std::int64_t j = 0; j < seen; ++j) scores[j] /= total;
    return sink_weight / total;
  }

  // Makes ds of the products a; returns D.
  double differentiate(const double* weights, double* along, std::int64_t seen) const {
    double total = 0;
    for (std::int64_t j = 0; j < seen; ++j) total += weights[j] * along[j];
    const auto scale = static_cast<double>(attention_.scale);
    for (std::int64_t j = 0; j < seen; ++j) {
      along[j] = weights[j] * (along[j] - total) * scale * (slopes_.empty() ? 1 : slopes_[static_cast<std::size_t>(j)]);
    }
    return total;
  }

  // What the rows at hand add to the gradients of keys and values. Which of them see a key is a run of rows.
  void add_to_keys() {
    std::int64_t low = 0;
    std::int64_t high = 0;
    const auto rows = static_cast<std::int64_t>(rows_.size());
    const auto seen = [&](std::int64_t r) { return rows_[static_cast<std::size_t>(r)].seen; };
    for (std::int64_t j = seen(0).begin; j < seen(rows - 1).end; ++j) {
      while (low < rows && seen(low).end <= j) ++low;
      high = std::max(high, low);
      while (high < rows && seen(high).begin <= j) ++high;
      const std::int64_t at = j * kRows + low;
      const auto add = [&](const double* factors, const double* of_rows, Side& side) {
        loops_.accumulate(factors + at, 1, 0, of_rows + low * side.dim, side.dim, high - low, side.sum(j));
      };
      add(dscores_.data(), q_.data(), keys_);
      add(weights_.data(), dy_.data(), values_);
    }
  }

  const AttentionBackwardRequest& request_;
  const AttentionRequest& attention_;
  const kernels::ForwardLoops& loops_;
  double* dsinks_;  // [tokens, heads]
  std::size_t sequence_;
  std::int64_t kv_head_;
  std::int64_t count_;  // of keys
  Side keys_, values_;
  std::vector<double> q_, dy_;  // [kRows, dim]
  std::vector<double> dq_;
  std::int64_t stride_;                    // of what is [kRows, keys]: loops write past a row's last key
  std::int64_t first_ = 0;                 // the key where these begin
  std::vector<double> scores_, along_;     // [kRows, keys]
  std::vector<double> slopes_;             // of a row
  std::vector<double> weights_, dscores_;  // [keys, kRows]
  std::vector<float> floats_;              // a row as it is widened
  std::vector<QueryRow> rows_;
  Row out_;
};

bool is_empty(const AttentionRequest& attention, std::size_t sequence) {
  return attention.key_counts[sequence] == 0 &&
         attention.query_starts[sequence] == attention.query_starts[sequence + 1];
}

// What no piece writes: the gradients of keys of no sequence.
void clear(const TensorOutput& to, const TensorView& like) {
  if (to.data == nullptr) return;
  const std::size_t bytes = static_cast<std::size_t>(like.dim) * dtype_size(like.dtype);
  for (std::int64_t token = 0; token < like.tokens; ++token) {
    for (std::int64_t head = 0; head < like.heads; ++head) std::memset(row_of(to, like.dtype, token, head), 0, bytes);
  }
}

Result<void> validate_apart(const AttentionBackwardRequest& request) {
  const AttentionRequest& attention = request.attention;
  const KeyValues& kv = attention.kv;
  std::vector inputs{range_of("q", attention.q), range_of("keys", kv.keys), range_of("values", kv.values),
                     range_of("dy", request.dy), tiles::range_of("sinks", attention.sinks)};
  const auto bytes = static_cast<std::int64_t>(attention.sinks.size_bytes());
  const std::array dsinks{tiles::range_of("dsinks", request.dsinks, bytes)};
  if (auto checked = tiles::check_apart(dsinks, inputs); !checked) return checked;
  inputs.push_back(dsinks[0]);
  if (auto checked = validate_gradient("dq", request.dq, attention.q, inputs); !checked) return checked;
  if (auto checked = validate_gradient("dkeys", request.dkeys, kv.keys, inputs); !checked) return checked;
  return validate_gradient("dvalues", request.dvalues, kv.values, inputs);
}

Result<void> validate(const AttentionBackwardRequest& request) {
  const AttentionRequest& attention = request.attention;
  const KeyValues& kv = attention.kv;
  if (!kv.block_table.empty()) {
    return fail(StatusCode::unsupported,
                "block_table: attention over pages has no gradients; expected keys and values without one");
  }
  if (auto checked = validate_attention_operands(attention); !checked) return checked;
  TensorView result = attention.q;
  result.dim = kv.values.dim;
  if (auto checked = validate_like("dy", request.dy, "the result", result); !checked) return checked;
  std::vector<std::array<std::int64_t, 2>> places;
  for (std::size_t s = 0; s < kv.first_keys.size(); ++s) {
    if (attention.key_counts[s] > 0) places.push_back({kv.first_keys[s], kv.first_keys[s] + attention.key_counts[s]});
  }
  std::sort(places.begin(), places.end());
  for (std::size_t s = 1; s < places.size(); ++s) {
    if (places[s][0] < places[s - 1][1]) {
      return fail(StatusCode::unsupported,
                  base::concat("first_keys: key ", places[s][0], " is of two sequences; expected sequences apart"));
    }
  }
  if (request.dsinks != nullptr && attention.sinks.empty()) {
    return tiles::invalid("dsinks: wanted of attention without sinks; expected NULL");
  }
  return validate_apart(request);
}

}  // namespace
}  // namespace isologit::detail::forward

namespace isologit::forward {

Result<Report> attention_backward(const AttentionBackwardRequest& request, const Options& options) {
  using namespace detail::forward;
  const auto work = [&](const Options& own) -> Result<Report> {
    if (auto checked = validate(request); !checked) return tl::unexpected(checked.error());
    const auto setting = setting_with_loops(own);
    if (!setting) return tl::unexpected(setting.error());
    const AttentionRequest& attention = request.attention;
    clear(request.dkeys, attention.kv.keys);
    clear(request.dvalues, attention.kv.values);
    const std::int64_t heads = attention.q.heads;
    std::vector<double> dsinks(request.dsinks == nullptr ? 0 : static_cast<std::size_t>(attention.q.tokens * heads));
    const std::int64_t kv_heads = attention.kv.keys.heads;
    const auto pieces = static_cast<std::int64_t>(attention.key_counts.size()) * kv_heads;
    auto report = run(*setting, pieces, 1, [&](int, std::int64_t i, std::int64_t) {
      if (is_empty(attention, static_cast<std::size_t>(i / kv_heads))) return std::int64_t{0};
      KvHead(request, *setting->loops, dsinks.empty() ? nullptr : dsinks.data(), i / kv_heads, i % kv_heads).run();
      return std::int64_t{0};
    });
    if (report && request.dsinks != nullptr) store_sums(dsinks, heads, DType::f32, request.dsinks);
    return report;
  };
  return detail::tiles::call(options, "computing attention_backward; nothing useful is in the outputs", work);
}

}  // namespace isologit::forward
