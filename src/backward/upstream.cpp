#include "backward/upstream.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "exact/element.hpp"

namespace isologit::detail::backward {

using exact::BigFloat;

template <class Visit>
void ActiveRows::each_id(std::int64_t index, Visit visit) const {
  if (request_.d_logprobs == nullptr) return;
  const std::int64_t begin = index * request_.ids_per_row;
  for (std::int64_t j = begin; j < begin + request_.ids_per_row; ++j) {
    const std::int64_t id = request_.token_ids[static_cast<std::size_t>(j)];
    if (id != request_.ignore_index) visit(id, request_.d_logprobs[j]);
  }
}

ActiveRows::ActiveRows(const BackwardRequest& request, std::int64_t vocab)
    : request_(request), support_(request.support, vocab) {
  for (std::int64_t i = 0; i < request.hidden.rows; ++i) {
    if (!all_ignored(i)) add(i, vocab);
  }
}

bool ActiveRows::all_ignored(std::int64_t index) const {
  if (request_.token_ids.empty()) return false;
  const auto ids = request_.token_ids.subspan(static_cast<std::size_t>(index * request_.ids_per_row),
                                              static_cast<std::size_t>(request_.ids_per_row));
  return std::all_of(ids.begin(), ids.end(), [&](std::int64_t id) { return id == request_.ignore_index; });
}

void ActiveRows::add(std::int64_t index, std::int64_t vocab) {
  ActiveRow row;
  row.index = index;
  const auto temperatures = request_.temperatures;
  if (!temperatures.empty())
    row.temperature = temperatures[temperatures.size() == 1 ? 0 : static_cast<std::size_t>(index)];
  bool all_zero = true;
  const auto see = [&](float x) {
    all_zero = all_zero && x == 0;
    row.poisoned = row.poisoned || !std::isfinite(x);
  };
  if (dense()) {
    const float* g = d_logits(row);
    for (std::int64_t v = 0; v < vocab; ++v) see(g[v]);
    row.poisoned = false;  // such elements stand for themselves
  }
  if (request_.d_lse != nullptr) see(request_.d_lse[index]);
  if (request_.d_entropy != nullptr) see(request_.d_entropy[index]);
  if (request_.d_mean_logits != nullptr) see(request_.d_mean_logits[index]);
  each_id(index, [&](std::int64_t, float a) { see(a); });
  if (all_zero) return;
  row.first_target = row.last_target = targets_.size();
  if (!row.poisoned) {
    std::map<std::int64_t, BigFloat> sums;
    each_id(index, [&](std::int64_t id, float a) {
      if (a != 0 && support_.contains(index, id))
        sums[id] = exact::add(sums[id], BigFloat::from_double(static_cast<double>(a)));
    });
    const BigFloat all = b(row);
    for (const auto& [id, a] : sums) {
      targets_.push_back({id, exact::round(a, exact::kF64), exact::round(exact::add(a, all), exact::kF64)});
    }
    row.last_target = targets_.size();
  }
  rows_.push_back(row);
}

void ActiveRows::keep(std::span<const std::size_t> which) {
  std::vector<ActiveRow> kept;
  for (const std::size_t i : which) kept.push_back(rows_[i]);
  rows_ = std::move(kept);
}

BigFloat ActiveRows::b(const ActiveRow& row) const {
  BigFloat sum;
  if (request_.d_lse != nullptr) sum = BigFloat::from_double(static_cast<double>(request_.d_lse[row.index]));
  each_id(row.index,
          [&](std::int64_t, float a) { sum = exact::add(sum, BigFloat::from_double(-static_cast<double>(a))); });
  return sum;
}

Upstream ActiveRows::of_row(const ActiveRow& row) const {
  Upstream upstream{{}, b(row)};
  if (request_.d_entropy != nullptr) upstream.c = request_.d_entropy[row.index];
  if (request_.d_mean_logits != nullptr && request_.d_mean_logits[row.index] != 0) {
    upstream.mean = request_.d_mean_logits[row.index];
    upstream.support = support_.size(row.index);
  }
  return upstream;
}

Upstream ActiveRows::of_id(const ActiveRow& row, std::int64_t id) const {
  Upstream upstream = of_row(row);
  each_id(row.index, [&](std::int64_t other, float a) {
    if (other == id) upstream.a = exact::add(upstream.a, BigFloat::from_double(static_cast<double>(a)));
  });
  return upstream;
}

const RowSummary* ActiveRows::summary(const ActiveRow& row) const {
  if (request_.summaries.empty() || dense()) return nullptr;
  const RowSummary& summary = request_.summaries[static_cast<std::size_t>(row.index)];
  return std::isnan(summary.top) ? nullptr : &summary;
}

const float* ActiveRows::d_logits(const ActiveRow& row) const {
  return static_cast<const float*>(exact::row_data(request_.d_logits, row.index));
}

}  // namespace isologit::detail::backward
