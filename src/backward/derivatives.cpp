#include "backward/derivatives.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <set>

#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "exact/element.hpp"
#include "exact/encoded.hpp"
#include "fold/pair_sums.hpp"

namespace isologit::detail::backward {
namespace {

bool all_finite(const void* data, DType dtype, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(exact::load_element(data, dtype, i))) return false;
  }
  return true;
}

bool all_finite(const MatrixView& matrix, std::int64_t row) {
  return all_finite(exact::row_data(matrix, row), matrix.dtype, matrix.cols);
}

// Whether the weight's row and that of a low-rank addition's b are.
bool is_finite(const Head& head, std::int64_t id) {
  if (head.lora.a.rows > 0 && !all_finite(head.lora.b, id)) return false;
  if (head.encoded.encoding == Encoding::none) return all_finite(head.weight, id);
  std::vector<double> numbers(static_cast<std::size_t>(head.weight.cols));
  exact::decode_row(head, id, numbers.data());
  return std::all_of(numbers.begin(), numbers.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace

Derivatives::Derivatives(const Head& head, const BackwardRequest& request, const ActiveRows& rows,
                         const kernels::Target& target, const kernels::BackwardLoops* loops, bool exact, int threads,
                         const base::Parties& parties)
    : head_(head),
      rows_(rows),
      loops_(loops),
      exact_(exact),
      threads_(threads),
      parties_(parties),
      finite_(false),
      first_pass_(head, request, rows, target, exact, threads, parties),
      tiles_({head, parties.first_id()}, request.hidden, request.temperatures, target, threads,
             {false, head.transforms.has_softcap}),
      fold_loops_(target.fold_loops()),
      tops_(rows.active().size(), 0) {
  std::vector<std::int64_t> indices;
  for (const ActiveRow& row : rows.active()) indices.push_back(row.index);
  tiles_.take(indices);
  if (!rows.dense() || target.arithmetic() == Arithmetic::fast) return;
  // Finite operands make no NaN, so a dense upstream can do without the first pass. (Sums in f32 may overflow.)
  std::atomic<bool> finite = head.bias.data == nullptr || all_finite(head.bias.data, head.bias.dtype, head.vocab_size);
  base::parallel_for(threads, head.vocab_size, [&](int, std::int64_t v) {
    if (finite && !is_finite(head, v)) finite = false;
  });
  for (std::int64_t j = 0; j < head.lora.a.rows; ++j) finite = finite && all_finite(head.lora.a, j);
  for (const ActiveRow& row : rows.active()) {
    finite = finite && all_finite(request.hidden, row.index);
  }
  finite_ = finite;
}

bool Derivatives::normalize(const std::function<bool(double)>& progress) {
  if (finite_) {
    states_.assign(rows(), {});
    return true;
  }
  return first_pass_.run(tiles_, states_, progress);
}

void Derivatives::take_states(const Derivatives& all, std::span<const std::size_t> which) {
  for (const std::size_t i : which) states_.push_back(all.states_[i]);
}

// A dense upstream goes through the slope of a softcap and nothing else that depends on the logits.
bool Derivatives::needs_logits() const { return !rows_.dense() || head_.transforms.has_softcap; }

bool Derivatives::make(std::int64_t first, std::int64_t count, float* strip,
                       const std::function<bool(double)>& progress) {
  std::vector<Open> open;
  const auto stride = static_cast<std::int64_t>(rows()) * kChunk;
  const bool finished = base::parallel_for(
      threads_, count,
      [&](int worker, std::int64_t i) {
        const std::int64_t begin = (first + i) * kChunk;
        const std::int64_t ids = std::min(kChunk, head_.vocab_size - begin);
        float* chunk = strip + i * stride;
        std::vector<Open> own;
        const auto make_one = [&](const tiles::RowTile& tile) {
          make_row(tile,
                   chunk + static_cast<std::int64_t>(tile.row) * kChunk + (tile.first_id - parties_.first_id() - begin),
                   own);
        };
        if (needs_logits()) {
          tiles_.visit(worker, begin, begin + ids, make_one);
        } else {
          for (std::size_t r = 0; r < rows(); ++r) make_one({r, nullptr, nullptr, nullptr, begin, ids});
        }
        const std::lock_guard lock(mutex_);
        open.insert(open.end(), own.begin(), own.end());
      },
      progress);
  if (!finished || std::find(tops_.begin(), tops_.end(), -1) != tops_.end()) return false;
  settle_all(std::move(open));
  return true;
}

bool Derivatives::bears_out(const tiles::RowTile& tile) {
  const float top = states_[tile.row].top;
  if (!fold_loops_.any_not_below(tile.logits, tile.count, top)) return true;
  const std::lock_guard lock(mutex_);
  std::int64_t& tops = tops_[tile.row];
  for (std::int64_t j = 0; j < tile.count && tops >= 0; ++j) {
    if (tile.logits[j] == top) {
      ++tops;
    } else if (!(tile.logits[j] < top)) {
      tops = -1;
    }
  }
  return tops >= 0;
}

std::int64_t Derivatives::mismatch(bool all_made) const {
  for (std::size_t i = 0; i < tops_.size(); ++i) {
    const ActiveRow& row = rows_.active()[i];
    if (tops_[i] < 0) return row.index;
    if (all_made && states_[i].summarized && !row.poisoned && tops_[i] != 1) return row.index;
  }
  return -1;
}

void Derivatives::make_row(const tiles::RowTile& tile, float* dz, std::vector<Open>& open) {
  const ActiveRow& row = rows_.active()[tile.row];
  const NormalizedRow& state = states_[tile.row];
  std::optional<tiles::Masked> masked;
  if (tile.logits != nullptr) masked.emplace(rows_.support(), row.index, tile);
  const std::uint8_t* in_support = masked ? masked->in_support : nullptr;
  if (row.poisoned || state.has_nan || (!rows_.dense() && !state.ordinary)) {
    std::fill(dz, dz + tile.count, exact::quiet_nan());
  } else if (rows_.dense()) {
    make_dense(row, tile, dz, open);
  } else if (!state.summarized || bears_out(tile)) {
    make_ordinary(tile, in_support, dz, open);
  }
  for (std::int64_t j = 0; in_support != nullptr && j < tile.count; ++j) {
    if (in_support[j] == 0) dz[j] = 0;
  }
}

void Derivatives::make_dense(const ActiveRow& row, const tiles::RowTile& tile, float* dz,
                             std::vector<Open>& open) const {
  const float* g = rows_.d_logits(row) + tile.first_id;
  const Factors factors = first_pass_.factors(tile.row);
  const double factor = factor_of(factors);
  for (std::int64_t j = 0; j < tile.count; ++j) {
    const Logit logit{tile.uncapped == nullptr ? 0.0F : tile.uncapped[j], 0};
    Estimate estimate{static_cast<double>(g[j]) * factor, 0};
    if (head_.transforms.has_softcap) estimate.value *= slope_of(factors, logit.uncapped);
    estimate.error = std::fabs(estimate.value) * 0x1p-40;
    if (!std::isfinite(g[j])) {
      dz[j] = std::isnan(estimate.value) ? exact::quiet_nan() : g[j] * (factor < 0 ? -1.0F : 1.0F);
    } else if (loops_ == nullptr || !settle(estimate, exact_, dz[j])) {
      open.push_back({tile.row, tile.first_id + j, logit, dz + j});
    }
  }
}

void Derivatives::make_ordinary(const tiles::RowTile& tile, const std::uint8_t* in_support, float* dz,
                                std::vector<Open>& open) const {
  const NormalizedRow& state = states_[tile.row];
  const auto leave_open = [&](std::int64_t j) {
    if (in_support != nullptr && in_support[j] == 0) return;
    open.push_back({tile.row, tile.first_id + j, {tile.uncapped[j], tile.logits[j]}, dz + j});
  };
  if (loops_ == nullptr) {
    for (std::int64_t j = 0; j < tile.count; ++j) leave_open(j);
    return;
  }
  const std::span<const TargetId> targets = rows_.targets(rows_.active()[tile.row]);
  const auto by_id = [](const TargetId& target, std::int64_t id) { return target.id < id; };
  auto target = std::lower_bound(targets.begin(), targets.end(), tile.first_id, by_id);
  const auto last_target = std::lower_bound(target, targets.end(), tile.first_id + tile.count, by_id);
  std::int32_t unproven[kChunk];
  const std::int64_t count = loops_->dz(state.dz, tile.uncapped, tile.logits, tile.count, exact_, dz, unproven);
  const auto settle_at = [&](std::int64_t j, double a, double a_plus_b) {
    const Logit logit{tile.uncapped[j], tile.logits[j]};
    if (!settle(estimate_dz(state.dz, state.sums.ties, logit, a, a_plus_b), exact_, dz[j])) leave_open(j);
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = tile.first_id + unproven[i];
    const auto at = std::lower_bound(target, last_target, id, by_id);
    if (at == last_target || at->id != id) settle_at(unproven[i], 0, state.dz.b);
  }
  for (; target != last_target; ++target) settle_at(target->id - tile.first_id, target->a, target->a_plus_b);
}

std::optional<float> Derivatives::settle_one(const Open& open) const {
  const ActiveRow& row = rows_.active()[open.row];
  const Factors factors = first_pass_.factors(open.row);
  if (rows_.dense()) return exact_dz_of_logit(rows_.d_logits(row)[open.id], open.logit.uncapped, factors);
  const NormalizedRow& state = states_[open.row];
  return exact_dz(state.sums, state.top, open.logit, rows_.of_id(row, open.id), factors, state.sums.limbs + 1);
}

bool Derivatives::any_party(bool some) const { return parties_.greatest(some ? 1 : 0) > 0; }

void Derivatives::share_rows(std::vector<std::size_t>& rows) const {
  if (!parties_.several()) return;
  base::ByteWriter own;
  for (const std::size_t row : rows) own.put(static_cast<std::int64_t>(row));
  std::set<std::size_t> all;
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    std::int64_t row = 0;
    while (bytes.get(row)) {
      if (row < 0 || row >= static_cast<std::int64_t>(states_.size())) return false;
      all.insert(static_cast<std::size_t>(row));
    }
    return true;
  });
  rows.assign(all.begin(), all.end());
}

void Derivatives::share_tops() {
  if (!parties_.several()) return;
  base::ByteWriter own;
  for (const std::int64_t tops : tops_) own.put(tops);
  std::fill(tops_.begin(), tops_.end(), 0);
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    std::int64_t tops = 0;
    for (std::int64_t& sum : tops_) {
      if (!bytes.get_count(tops)) return false;
      sum += tops;
    }
    return true;
  });
}

void Derivatives::settle_all(std::vector<Open> open) {
  fallbacks_ += static_cast<std::int64_t>(open.size());
  for (std::size_t limbs = fold::kPairLimbs; any_party(!open.empty()); limbs *= 2) {
    std::vector<char> settled(open.size());
    base::parallel_for(threads_, static_cast<std::int64_t>(open.size()), [&](int, std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      if (const auto dz = settle_one(open[at])) {
        *open[at].dz = *dz;
        settled[at] = 1;
      }
    });
    std::vector<Open> still;
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (settled[i] != 0) continue;
      still.push_back(open[i]);
      if (states_[open[i].row].sums.limbs < limbs) which.push_back(open[i].row);
    }
    std::sort(which.begin(), which.end());
    which.erase(std::unique(which.begin(), which.end()), which.end());
    share_rows(which);
    first_pass_.widen(which, limbs, states_);
    open = std::move(still);
  }
}

}  // namespace isologit::detail::backward
