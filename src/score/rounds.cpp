#include "score/rounds.hpp"

#include <algorithm>
#include <utility>

#include "base/cpu.hpp"
#include "base/text.hpp"
#include "base/thread_pool.hpp"
#include "score/logits_output.hpp"
#include "score/validate.hpp"
#include "tiles/row_selection.hpp"
#include "tiles/transforms.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::score {

Rounds::Rounds(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms, const ScoreRequest& request,
               const ScoreOptions& options, const kernels::Target& target, int threads)
    : vocab_size_(vocab_size),
      cols_(cols),
      transforms_(transforms),
      request_(request),
      options_(options),
      target_(target),
      threads_(threads),
      support_(request_.support, vocab_size),
      blocks_(static_cast<std::size_t>(threads)) {
  report_.kernel = target.name();
  report_.arithmetic = target.arithmetic();
  report_.threads = threads;
  report_.processors = base::available_processors();
  plan();
}

void Rounds::plan() {
  const bool floats = request_.logprobs != nullptr || request_.lse != nullptr || request_.entropy != nullptr ||
                      request_.sum_p2 != nullptr || request_.ids_logprobs != nullptr ||
                      request_.top_k_logprobs != nullptr || request_.log_kept != nullptr ||
                      request_.summaries != nullptr;
  plan_.rank = request_.rank != nullptr;
  plan_.mean = request_.mean_logits != nullptr;
  plan_.top_k = request_.top_k_ids != nullptr || request_.top_k_logprobs != nullptr ? request_.top_k : 0;
  const bool heated =
      std::any_of(request_.temperatures.begin(), request_.temperatures.end(), [](float t) { return t != 1.0F; });
  plan_.raw = request_.raw_logprobs != nullptr && (heated || !support_.is_everything());
  plan_.kept_sums = floats || (request_.raw_logprobs != nullptr && !plan_.raw);
  plan_.kept = plan_.kept_sums || request_.argmax != nullptr || plan_.rank || plan_.mean || plan_.top_k > 0;
  plan_.dropped = request_.log_kept != nullptr && !support_.is_everything();
  phase_ = plan_.rank ? Phase::targets : Phase::first;

  const std::vector<std::uint8_t> selected =
      tiles::selected_rows({request_.hidden.rows, request_.row_mask, request_.row_list, request_.use_row_list});
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

Rounds::ScoredRow Rounds::new_row(std::int64_t index) const {
  ScoredRow row;
  row.index = index;
  row.folds = fold::Row(plan_);
  const auto add = [&](std::int64_t id) {
    if (id != request_.ignore_index) row.captured.push_back({id, false, 0, 0});
  };
  if (!request_.token_ids.empty()) add(request_.token_ids[static_cast<std::size_t>(index)]);
  if (request_.ids_logprobs != nullptr) {
    for (std::int64_t k = 0; k < request_.ids_per_row; ++k) {
      add(request_.ids[static_cast<std::size_t>(index * request_.ids_per_row + k)]);
    }
  }
  const auto by_id = [](const IdLogit& a, const IdLogit& b) { return a.id < b.id; };
  const auto same_id = [](const IdLogit& a, const IdLogit& b) { return a.id == b.id; };
  std::sort(row.captured.begin(), row.captured.end(), by_id);
  row.captured.erase(std::unique(row.captured.begin(), row.captured.end(), same_id), row.captured.end());
  return row;
}

std::size_t Rounds::captured_at(const ScoredRow& row, std::int64_t id) {
  const auto at = std::lower_bound(row.captured.begin(), row.captured.end(), id,
                                   [](const IdLogit& a, std::int64_t b) { return a.id < b; });
  return static_cast<std::size_t>(at - row.captured.begin());
}

void Rounds::for_each_row(std::size_t begin, std::size_t count, const std::function<void(std::size_t)>& work) const {
  base::parallel_for(threads_, static_cast<std::int64_t>(count),
                     [&](int, std::int64_t i) { work(begin + static_cast<std::size_t>(i)); });
}

Result<void> Rounds::validate(const Shard& shard) const {
  if (phase_ == Phase::done) return fail(StatusCode::invalid_argument, "absorb: the last round is finished");
  if (auto checked = tiles::validate_shard(shard, vocab_size_, cols_, transforms_); !checked) return checked;
  return validate_overlap(shard.head, request_);
}

Result<void> Rounds::absorb(const Shard& shard, const std::function<bool(double)>& progress) {
  tiles::Tiles tiles(shard, request_.hidden, request_.temperatures, target_, threads_,
                     {request_.raw_logprobs != nullptr, false});
  if (phase_ == Phase::targets) {
    absorb_targets(shard, tiles);
    return {};
  }
  const auto block_rows = static_cast<std::size_t>(tiles.block_rows(static_cast<std::int64_t>(rows_.size())));
  std::vector<std::int64_t> indices;
  for (std::size_t begin = 0; begin < rows_.size(); begin += block_rows) {
    const std::size_t count = std::min(block_rows, rows_.size() - begin);
    indices.clear();
    for (std::size_t i = 0; i < count; ++i) indices.push_back(rows_[begin + i].index);
    begin_block(begin, count);
    const auto fold = [&](int worker, const tiles::RowTile& tile) {
      absorb_row(shard, tiles, tile, rows_[begin + tile.row], blocks_[static_cast<std::size_t>(worker)]);
    };
    const auto shown = [&](double done) {
      // Few rows take part in the exact rounds; to the caller the first one is the work.
      const auto rows = static_cast<double>(rows_.size());
      const double share = (static_cast<double>(begin) + static_cast<double>(count) * done) / rows;
      return !progress || progress(phase_ == Phase::exact ? 1.0 : share);
    };
    tiles.take(indices);
    if (!tiles.run(fold, shown)) return fail(StatusCode::cancelled, "cancelled by the progress callback");
    end_block(begin, count);
  }
  report_.logit_fallbacks += tiles.fallbacks();
  return {};
}

// rank counts against the target's logit from the first tile on, so those come first.
void Rounds::absorb_targets(const Shard& shard, const tiles::Tiles& tiles) {
  for_each_row(0, rows_.size(), [&](std::size_t i) {
    ScoredRow& row = rows_[i];
    const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
    if (id < shard.first_id || id >= shard.first_id + shard.head.vocab_size) return;
    const tiles::Tiles::StagedLogit logit = tiles.logit(row.index, id - shard.first_id);
    row.captured[captured_at(row, id)] = {id, true, logit.raw, logit.last};
  });
}

void Rounds::begin_block(std::size_t begin, std::size_t count) {
  for (BlockState& block : blocks_) {
    block.folds.clear();
    block.exact.clear();
    for (std::size_t i = 0; i < count; ++i) {
      const ScoredRow& row = rows_[begin + i];
      if (phase_ == Phase::exact) {
        block.exact.push_back(empty_sums(row));
        continue;
      }
      fold::Row folds(plan_);
      if (plan_.rank) {
        const std::int64_t id = request_.token_ids[static_cast<std::size_t>(row.index)];
        folds.rank = {row.captured[captured_at(row, id)].logit, id, 0};
      }
      block.folds.push_back(std::move(folds));
    }
  }
}

void Rounds::absorb_row(const Shard& shard, const tiles::Tiles& tiles, const tiles::RowTile& tile, ScoredRow& row,
                        BlockState& block) {
  // Each captured id lies in one tile, so no two threads write to the same one.
  for (std::size_t c = captured_at(row, tile.first_id); c < row.captured.size(); ++c) {
    IdLogit& captured = row.captured[c];
    const std::int64_t at = captured.id - tile.first_id;
    if (at >= tile.count) break;
    captured = {captured.id, true, tile.raw[at], tile.logits[at]};
  }
  if (phase_ == Phase::first && request_.logits.data != nullptr) {
    const tiles::Tiles* fast = target_.arithmetic() == Arithmetic::fast ? &tiles : nullptr;
    write_logits(
        request_.logits,
        {tile.logits, tile.first_id, tile.count, row.index, tiles::temperature_of(request_.temperatures, row.index)},
        {shard, request_.hidden, fast});
  }
  const kernels::FoldLoops& loops = tiles.loops();
  // The raw logits may be the very ones that are masked then.
  if (plan_.raw && phase_ == Phase::exact) block.exact[tile.row][2].absorb(tile.raw, tile.count, tile.first_id);
  if (plan_.raw && phase_ == Phase::first) {
    block.folds[tile.row].raw.absorb(loops, tile.raw, tile.count, tile.first_id);
  }
  float dropped[kernels::kMostTile];
  const tiles::Masked masked(support_, row.index, tile, plan_.dropped ? dropped : nullptr);
  if (phase_ == Phase::exact) {
    ExactSums& sums = block.exact[tile.row];
    sums[0].absorb(tile.logits, tile.count, tile.first_id);
    if (plan_.dropped) sums[1].absorb(dropped, tile.count, tile.first_id);
    return;
  }
  fold::Row& folds = block.folds[tile.row];
  if (plan_.kept) folds.kept.absorb(loops, tile.logits, tile.count, tile.first_id);
  if (plan_.dropped) folds.dropped.absorb(loops, dropped, tile.count, tile.first_id);
  if (plan_.mean) folds.mean->absorb(tile.logits, masked.in_support, tile.count);
  if (plan_.rank) folds.rank.absorb(loops, tile.logits, masked.in_support, tile.count, tile.first_id);
  if (plan_.top_k > 0) folds.top_k.absorb(loops, tile.logits, masked.in_support, tile.count, tile.first_id);
}

void Rounds::end_block(std::size_t begin, std::size_t count) {
  for_each_row(begin, count, [&](std::size_t i) {
    ScoredRow& row = rows_[i];
    for (const BlockState& block : blocks_) {
      if (phase_ == Phase::exact) {
        for (std::size_t d = 0; d < 3; ++d) row.exact[d].merge(block.exact[i - begin][d]);
      } else {
        row.folds.merge(target_.fold_loops(), plan_, block.folds[i - begin]);
      }
    }
  });
}

Result<ScoreReport> run(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                        const kernels::Target& target, int threads) {
  const base::Parties parties(options.peers, head.vocab_size);
  const Shard own{head, parties.first_id()};
  Rounds rounds(parties.vocab_size(), request.hidden.cols, head.transforms, request, options, target, threads);
  for (;;) {
    if (auto absorbed = rounds.absorb(own, options.progress); !absorbed) return tl::unexpected(absorbed.error());
    rounds.exchange(parties);
    const Result<bool> finished = rounds.finish_round();
    if (!finished) return tl::unexpected(finished.error());
    if (*finished) return rounds.report();
  }
}

}  // namespace isologit::detail::score
