#include "head/rounds.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>

#include "base/fp_env.hpp"
#include "base/text.hpp"
#include "base/thread_pool.hpp"
#include "head/logits_output.hpp"
#include "head/row_selection.hpp"
#include "head/transforms.hpp"
#include "head/validate.hpp"

namespace isologit {

PartialScore::Rounds::Rounds(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                             const ScoreRequest& request, const ScoreOptions& options, const dot::Kernel& kernel,
                             int threads)
    : vocab_size_(vocab_size),
      cols_(cols),
      transforms_(transforms),
      request_(request),
      options_(options),
      kernel_(kernel),
      threads_(threads),
      support_(request_.support, vocab_size),
      workers_(static_cast<std::size_t>(threads)) {
  report_.kernel = kernel.name();
  report_.arithmetic = kernel.arithmetic();
  report_.threads = threads;
  plan();
}

void PartialScore::Rounds::plan() {
  const bool floats = request_.logprobs != nullptr || request_.lse != nullptr || request_.entropy != nullptr ||
                      request_.sum_p2 != nullptr || request_.ids_logprobs != nullptr ||
                      request_.top_k_logprobs != nullptr || request_.log_kept != nullptr ||
                      request_.summaries != nullptr;
  plan_.rank = request_.rank != nullptr;
  plan_.top_k = request_.top_k_ids != nullptr || request_.top_k_logprobs != nullptr ? request_.top_k : 0;
  const bool heated =
      std::any_of(request_.temperatures.begin(), request_.temperatures.end(), [](float t) { return t != 1.0F; });
  plan_.raw = request_.raw_logprobs != nullptr && (heated || !support_.is_everything());
  plan_.kept_sums = floats || (request_.raw_logprobs != nullptr && !plan_.raw);
  plan_.kept = plan_.kept_sums || request_.argmax != nullptr || plan_.rank || plan_.top_k > 0;
  plan_.dropped = request_.log_kept != nullptr && !support_.is_everything();
  phase_ = plan_.rank ? Phase::targets : Phase::first;

  const std::vector<std::uint8_t> selected =
      head::selected_rows(request_.hidden.rows, request_.row_mask, request_.row_list, request_.use_row_list);
  for (std::int64_t i = 0; i < request_.hidden.rows; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool ignored =
        selected[at] == 0 || (!request_.token_ids.empty() && request_.token_ids[at] == request_.ignore_index);
    if (ignored) {
      store_ignored(i);
    } else {
      rows_.push_back(new_row(i));
    }
  }
  report_.rows = static_cast<std::int64_t>(rows_.size());
}

PartialScore::Rounds::RowState PartialScore::Rounds::new_row(std::int64_t index) const {
  RowState row;
  row.index = index;
  row.folds.kept.summed = plan_.kept_sums;
  row.folds.top_k = fold::TopK(plan_.top_k);
  const auto add = [&](std::int64_t id) {
    if (id != request_.ignore_index) row.captured.push_back({id, false, 0, 0});
  };
  if (!request_.token_ids.empty()) add(request_.token_ids[static_cast<std::size_t>(index)]);
  if (request_.ids_logprobs != nullptr) {
    for (std::int64_t k = 0; k < request_.ids_per_row; ++k) {
      add(request_.ids[static_cast<std::size_t>(index * request_.ids_per_row + k)]);
    }
  }
  const auto by_id = [](const Captured& a, const Captured& b) { return a.id < b.id; };
  const auto same_id = [](const Captured& a, const Captured& b) { return a.id == b.id; };
  std::sort(row.captured.begin(), row.captured.end(), by_id);
  row.captured.erase(std::unique(row.captured.begin(), row.captured.end(), same_id), row.captured.end());
  return row;
}

float PartialScore::Rounds::temperature(std::int64_t row) const {
  if (request_.temperatures.empty()) return 1.0F;
  return request_.temperatures[request_.temperatures.size() == 1 ? 0 : static_cast<std::size_t>(row)];
}

std::size_t PartialScore::Rounds::captured_at(const RowState& row, std::int64_t id) {
  const auto at = std::lower_bound(row.captured.begin(), row.captured.end(), id,
                                   [](const Captured& a, std::int64_t b) { return a.id < b; });
  return static_cast<std::size_t>(at - row.captured.begin());
}

void PartialScore::Rounds::for_each(std::size_t count, const std::function<void(std::size_t)>& work) const {
  std::atomic<std::size_t> next = 0;
  base::parallel(threads_, [&](int) {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  });
}

Result<void> PartialScore::Rounds::absorb(const Shard& shard) {
  if (phase_ == Phase::done) return fail(StatusCode::invalid_argument, "absorb: the last round is finished");
  if (auto checked = head::validate_shard(shard, vocab_size_, cols_, transforms_); !checked) return checked;
  if (auto checked = head::validate_overlap(shard.head, request_); !checked) return checked;
  const base::FpEnvironment environment;
  // The temperature is applied here, after the raw logits were seen.
  head::Stream stream(shard.head, request_.hidden, {}, kernel_, threads_);
  if (phase_ == Phase::targets) {
    absorb_targets(shard, stream);
    return {};
  }
  const auto block_rows = static_cast<std::size_t>(stream.block_rows(static_cast<std::int64_t>(rows_.size())));
  std::vector<std::int64_t> indices;
  for (std::size_t begin = 0; begin < rows_.size(); begin += block_rows) {
    const std::size_t count = std::min(block_rows, rows_.size() - begin);
    indices.clear();
    for (std::size_t i = 0; i < count; ++i) indices.push_back(rows_[begin + i].index);
    begin_block(begin, count);
    const auto fold = [&](int worker, const head::LogitTile& tile) {
      for (std::size_t i = 0; i < count; ++i) {
        absorb_row(shard, stream, tile, begin + i, i, workers_[static_cast<std::size_t>(worker)]);
      }
    };
    const auto progress = [&](double done) {
      // Few rows take part in the exact rounds; to the caller the first one is the work.
      const auto rows = static_cast<double>(rows_.size());
      const double share = (static_cast<double>(begin) + static_cast<double>(count) * done) / rows;
      return !options_.progress || options_.progress(phase_ == Phase::exact ? 1.0 : share);
    };
    const bool finished = stream.run(indices, fold, progress);
    if (!finished) return fail(StatusCode::cancelled, "cancelled by the progress callback");
    end_block(begin, count);
  }
  report_.logit_fallbacks += stream.fallbacks();
  return {};
}

// rank counts against the target's logit from the first tile on, so those come first.
void PartialScore::Rounds::absorb_targets(const Shard& shard, head::Stream& stream) {
  for_each(rows_.size(), [&](std::size_t i) {
    RowState& row = rows_[i];
    const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
    if (id < shard.first_id || id >= shard.first_id + shard.head.vocab_size) return;
    std::array<float, fold::kLaneGroup> logits{};
    logits[0] = stream.transformed_logit(row.index, id - shard.first_id);
    Captured& target = row.captured[captured_at(row, id)];
    target.seen = true;
    target.raw = logits[0];
    head::apply({}, temperature(row.index), kernel_.lanes(), logits.data(), fold::kLaneGroup);
    target.logit = logits[0];
  });
}

void PartialScore::Rounds::begin_block(std::size_t begin, std::size_t count) {
  const auto tile = static_cast<std::size_t>(kernel_.tile_vocab());
  for (Worker& worker : workers_) {
    worker.in_support.resize(tile);
    worker.dropped.resize(tile);
    worker.folds.clear();
    worker.exact.clear();
    for (std::size_t i = 0; i < count; ++i) {
      const RowState& row = rows_[begin + i];
      if (phase_ == Phase::exact) {
        worker.exact.push_back(empty_sums(row));
        continue;
      }
      fold::Row folds;
      folds.kept.summed = plan_.kept_sums;
      folds.top_k = fold::TopK(plan_.top_k);
      if (plan_.rank) {
        const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
        folds.rank = {row.captured[captured_at(row, id)].logit, id, 0};
      }
      worker.folds.push_back(std::move(folds));
    }
  }
}

void PartialScore::Rounds::absorb_row(const Shard& shard, const head::Stream& stream, const head::LogitTile& tile,
                                      std::size_t row, std::size_t slot, Worker& worker) {
  RowState& state = rows_[row];
  const std::int64_t first_id = shard.first_id + tile.first_id;
  const std::int64_t padded = (tile.count + fold::kLaneGroup - 1) / fold::kLaneGroup * fold::kLaneGroup;
  float* logits = tile.logits + static_cast<std::int64_t>(slot) * tile.stride;
  const fold::Lanes& lanes = kernel_.lanes();
  // Each captured id lies in one tile, so no two threads write to the same one.
  auto in_tile = std::lower_bound(state.captured.begin(), state.captured.end(), first_id,
                                  [](const Captured& a, std::int64_t id) { return a.id < id; });
  const auto first_captured = in_tile;
  for (; in_tile != state.captured.end() && in_tile->id < first_id + tile.count; ++in_tile) {
    in_tile->raw = logits[in_tile->id - first_id];
  }
  const auto last_captured = in_tile;
  if (plan_.raw) {
    if (phase_ == Phase::first) {
      worker.folds[slot].raw.absorb(lanes, logits, tile.count, first_id);
    } else {
      worker.exact[slot][2].absorb(logits, tile.count, first_id);
    }
  }
  head::apply({}, temperature(state.index), lanes, logits, padded);
  for (auto captured = first_captured; captured != last_captured; ++captured) {
    captured->logit = logits[captured->id - first_id];
    captured->seen = true;
  }
  if (phase_ == Phase::first && request_.logits.data != nullptr) {
    head::write_logits(
        request_.logits, {logits, first_id, tile.count, state.index, temperature(state.index)},
        {shard.head, request_.hidden, shard.first_id, kernel_.arithmetic() == Arithmetic::fast ? &stream : nullptr});
  }
  absorb_kept(state, slot, worker, logits, tile.count, first_id);
}

void PartialScore::Rounds::absorb_kept(RowState& row, std::size_t slot, Worker& worker, float* logits,
                                       std::int64_t count, std::int64_t first_id) {
  const fold::Lanes& lanes = kernel_.lanes();
  const std::uint8_t* in_support = nullptr;
  if (!support_.is_everything()) {
    // The kept ids stay, the dropped ones move to a tile of their own; -inf has no share in a distribution.
    const float nothing = -std::numeric_limits<float>::infinity();
    support_.fill(row.index, first_id, count, worker.in_support.data());
    in_support = worker.in_support.data();
    std::fill(worker.dropped.begin(), worker.dropped.end(), nothing);
    for (std::int64_t j = 0; j < count; ++j) {
      if (in_support[j] != 0) continue;
      worker.dropped[static_cast<std::size_t>(j)] = logits[j];
      logits[j] = nothing;
    }
  }
  if (phase_ == Phase::exact) {
    worker.exact[slot][0].absorb(logits, count, first_id);
    if (plan_.dropped) worker.exact[slot][1].absorb(worker.dropped.data(), count, first_id);
    return;
  }
  fold::Row& folds = worker.folds[slot];
  if (plan_.kept) folds.kept.absorb(lanes, logits, count, first_id);
  if (plan_.dropped) folds.dropped.absorb(lanes, worker.dropped.data(), count, first_id);
  if (plan_.rank) folds.rank.absorb(lanes, logits, in_support, count, first_id);
  if (plan_.top_k > 0) folds.top_k.absorb(lanes, logits, in_support, count, first_id);
}

void PartialScore::Rounds::end_block(std::size_t begin, std::size_t count) {
  for_each(count, [&](std::size_t i) {
    RowState& row = rows_[begin + i];
    for (const Worker& worker : workers_) {
      if (phase_ == Phase::exact) {
        for (std::size_t d = 0; d < 3; ++d) row.exact[d].merge(worker.exact[i][d]);
      } else {
        row.folds.merge(kernel_.lanes(), plan_, worker.folds[i]);
      }
    }
  });
}

}  // namespace isologit
