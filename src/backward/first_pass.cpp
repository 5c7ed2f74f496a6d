#include "backward/first_pass.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "fold/distribution.hpp"
#include "fold/pair_sums.hpp"
#include "fold/summary.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::backward {

bool FirstPass::run(tiles::Tiles& tiles, std::vector<NormalizedRow>& states,
                    const std::function<bool(double)>& progress) const {
  const std::size_t count = rows_.active().size();
  states.assign(count, {});
  const std::vector<std::size_t> without = take_summaries(states);
  if (without.size() == count) {
    if (!pass(tiles, without, states, progress)) return false;
  } else if (!without.empty()) {
    tiles::Tiles few = tiles_of(without);
    if (!pass(few, without, states, progress)) return false;
  }
  if (rows_.dense()) return true;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < count; ++i) {
    if (states[i].ordinary && !rows_.active()[i].poisoned) open.push_back(i);
  }
  open = parametrize(open, states);
  for (std::size_t limbs = fold::kPairLimbs; !open.empty(); limbs *= 2) {
    widen(open, limbs, states);
    open = parametrize(open, states);
  }
  return true;
}

std::vector<std::size_t> FirstPass::take_summaries(std::vector<NormalizedRow>& states) const {
  std::vector<std::size_t> without;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const RowSummary* summary = rows_.summary(rows_.active()[i]);
    if (summary == nullptr) {
      without.push_back(i);
      continue;
    }
    NormalizedRow& state = states[i];
    state.top = static_cast<float>(summary->top);
    state.ordinary = state.summarized = true;
    const fold::RelativeSums sums = fold::relative_sums(*summary);
    state.sums = {3, 1, summary->mass_error > 0, sums.rest, sums.moment, {}};
  }
  return without;
}

bool FirstPass::pass(tiles::Tiles& tiles, std::span<const std::size_t> which, std::vector<NormalizedRow>& states,
                     const std::function<bool(double)>& progress) const {
  const auto threads = static_cast<std::size_t>(threads_);
  const kernels::FoldLoops& loops = target_.fold_loops();
  std::vector<fold::Distribution> folds(threads * which.size());
  const bool finished = visit_all(
      tiles, which,
      [&](int worker, const tiles::RowTile& tile) {
        folds[static_cast<std::size_t>(worker) * which.size() + tile.row].absorb(loops, tile.logits, tile.count,
                                                                                 tile.first_id);
      },
      progress);
  if (!finished) return false;
  for (std::size_t i = 0; i < which.size(); ++i) {
    for (std::size_t t = 1; t < threads; ++t) folds[i].merge(loops, folds[t * which.size() + i]);
  }
  folds.resize(which.size());
  share(folds, which, [](std::size_t) { return fold::Distribution(); });
  for (std::size_t i = 0; i < which.size(); ++i) {
    const fold::Distribution& row = folds[i];
    NormalizedRow& state = states[which[i]];
    state.top = row.top;
    state.has_nan = row.first_nan >= 0;
    state.ordinary = row.ordinary();
    fold::RelativeSums sums;
    if (!state.ordinary || rows_.dense() || row.ties > 1 || !relative_sums(row, sums)) continue;
    state.sums = {3, 1, row.above_minus_inf > 1, sums.rest, sums.moment, {}};
  }
  return true;
}

std::vector<std::size_t> FirstPass::parametrize(std::span<const std::size_t> which,
                                                std::vector<NormalizedRow>& states) const {
  std::vector<std::size_t> open;
  for (const std::size_t i : which) {
    const ActiveRow& row = rows_.active()[i];
    NormalizedRow& state = states[i];
    const auto dz = dz_row(state.sums, state.top, rows_.of_row(row), factors(i), exact_);
    if (dz) {
      state.dz = *dz;
    } else {
      open.push_back(i);
    }
  }
  return open;
}

tiles::Tiles FirstPass::tiles_of(std::span<const std::size_t> which) const {
  std::vector<std::int64_t> rows;
  for (const std::size_t i : which) rows.push_back(rows_.active()[i].index);
  tiles::Tiles tiles({head_, parties_.first_id()}, request_.hidden, request_.temperatures, target_, threads_);
  tiles.take(rows);
  return tiles;
}

bool FirstPass::visit_all(tiles::Tiles& tiles, std::span<const std::size_t> which,
                          const std::function<void(int, const tiles::RowTile&)>& visit,
                          const std::function<bool(double)>& progress) const {
  return base::parallel_for(
      threads_, chunks_of(head_.vocab_size),
      [&](int worker, std::int64_t chunk) {
        const std::int64_t begin = chunk * kChunk;
        tiles.visit(worker, begin, std::min(begin + kChunk, head_.vocab_size), [&](const tiles::RowTile& tile) {
          const tiles::Masked masked(rows_.support(), rows_.active()[which[tile.row]].index, tile);
          visit(worker, tile);
        });
      },
      progress);
}

template <class Sums, class Make>
void FirstPass::share(std::vector<Sums>& sums, std::span<const std::size_t> which, Make empty) const {
  if (!parties_.several()) return;
  base::ByteWriter own;
  for (const Sums& one : sums) one.write(own);
  for (std::size_t i = 0; i < which.size(); ++i) sums[i] = empty(which[i]);
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    for (std::size_t i = 0; i < which.size(); ++i) {
      Sums other = empty(which[i]);
      if (!other.read(bytes)) return false;
      if constexpr (std::is_same_v<Sums, fold::Distribution>) {
        sums[i].merge(kernels::portable_loops().fold, other);  // the same for all parties
      } else {
        sums[i].merge(std::move(other));
      }
    }
    return true;
  });
}

template <class Sums, class Make, class Take>
void FirstPass::sum_again(std::span<const std::size_t> which, Make make, Take take) const {
  const auto threads = static_cast<std::size_t>(threads_);
  std::vector<Sums> sums;
  for (std::size_t t = 0; t < threads; ++t) {
    for (const std::size_t row : which) sums.push_back(make(row));
  }
  tiles::Tiles tiles = tiles_of(which);
  visit_all(tiles, which, [&](int worker, const tiles::RowTile& tile) {
    sums[static_cast<std::size_t>(worker) * which.size() + tile.row].absorb(tile.logits, tile.count);
  });
  for (std::size_t i = 0; i < which.size(); ++i) {
    for (std::size_t t = 1; t < threads; ++t) sums[i].merge(sums[t * which.size() + i]);
  }
  sums.erase(sums.begin() + static_cast<std::ptrdiff_t>(which.size()), sums.end());
  share(sums, which, make);
  for (std::size_t i = 0; i < which.size(); ++i) take(which[i], sums[i]);
}

void FirstPass::widen(std::span<const std::size_t> which, std::size_t limbs, std::vector<NormalizedRow>& states) const {
  std::vector<std::size_t> left(which.begin(), which.end());
  // The reference, which has no f64 sums either, goes by the definition at once.
  if (limbs == fold::kPairLimbs && target_.fold_loops().sums != nullptr && !left.empty()) {
    std::vector<std::size_t> still;
    sum_again<fold::PairSums>(
        left, [&](std::size_t row) { return fold::PairSums(states[row].top); },
        [&](std::size_t row, const fold::PairSums& sums) {
          if (!sums.finish(states[row].sums)) still.push_back(row);
        });
    left = std::move(still);
  }
  if (!left.empty()) {
    sum_again<fold::SumsBelowTop>(
        left, [&](std::size_t row) { return fold::SumsBelowTop(states[row].top, limbs); },
        [&](std::size_t row, const fold::SumsBelowTop& sums) { states[row].sums = sums.finish(); });
  }
  // A summary of other logits may have told a top that none reaches. Derivatives will see that; meanwhile no sum is 0.
  for (const std::size_t row : which) states[row].sums.ties = std::max<std::int64_t>(states[row].sums.ties, 1);
}

}  // namespace isologit::detail::backward
