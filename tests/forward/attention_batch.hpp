// Batches of attention, and what the oracle says of them.
#pragma once

#include <numeric>
#include <vector>

#include "forward/tensors.hpp"

namespace isologit::test {

// A batch of sequences of one layer.
struct AttentionBatch {
  DType dtype = DType::bf16;
  std::int64_t heads = 4, kv_heads = 2, dim = 20, value_dim = 12;
  std::vector<std::int64_t> queries, keys;  // of each sequence
  float scale = 0.25F;
  float softcap = 0;
  bool causal = true;
  std::int64_t window = 0;
  std::vector<float> sinks;
};

inline std::int64_t count_of(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}
inline std::vector<std::int64_t> starts_of(const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> starts{0};
  for (const std::int64_t n : counts) starts.push_back(starts.back() + n);
  return starts;
}

// The library's request of it, whose lists, `query_starts` and `first_keys`, are kept elsewhere.
inline forward::AttentionRequest request_of(const AttentionBatch& b, const forward::TensorView& q,
                                            const forward::TensorView& keys, const forward::TensorView& values,
                                            const std::vector<std::int64_t>& query_starts,
                                            const std::vector<std::int64_t>& first_keys,
                                            const forward::TensorOutput& y) {
  forward::AttentionRequest request;
  request.q = q;
  request.kv.keys = keys;
  request.kv.values = values;
  request.kv.first_keys = first_keys;
  request.query_starts = query_starts;
  request.key_counts = b.keys;
  request.scale = b.scale;
  request.softcap = b.softcap;
  request.causal = b.causal;
  request.window = b.window;
  request.sinks = b.sinks;
  request.y = y;
  return request;
}

// What element d of a query's head should be. `operands` has q, k and v, with row(token, head) and at(token, head, d).
template <class Operands>
double right(const AttentionBatch& b, const Operands& operands, std::size_t sequence, std::int64_t query,
             std::int64_t head, std::int64_t d) {
  const std::int64_t first_query = starts_of(b.queries)[sequence];
  const std::int64_t first_key = starts_of(b.keys)[sequence];
  const std::int64_t keys = b.keys[sequence];
  const std::int64_t position = keys - b.queries[sequence] + query;
  const std::int64_t kv_head = head / (b.heads / b.kv_heads);
  oracle::AttentionProblem problem;
  problem.q = operands.q.row(first_query + query, head);
  problem.scale = static_cast<double>(b.scale);
  problem.softcap = static_cast<double>(b.softcap);
  if (!b.sinks.empty()) problem.sink = static_cast<double>(b.sinks[static_cast<std::size_t>(head)]);
  for (std::int64_t j = 0; j < keys; ++j) {
    if (b.causal && j > position) continue;
    if (b.window > 0 && j <= position - b.window) continue;
    problem.keys.push_back(operands.k.row(first_key + j, kv_head));
    problem.values.push_back(operands.v.at(first_key + j, kv_head, d));
  }
  return oracle::attention(problem, format_of(b.dtype));
}

// So many of the numbers below `count`, in a random order.
inline std::vector<std::int32_t> random_pages(oracle::Random& random, std::int64_t used, std::int64_t count) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  order.resize(static_cast<std::size_t>(used));
  return order;
}

}  // namespace isologit::test
