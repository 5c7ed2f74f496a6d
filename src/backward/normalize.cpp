#include "backward/normalize.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backward/pair_sums.hpp"
#include "fold/distribution.hpp"
#include "fold/summary.hpp"

namespace isologit::gradient {
namespace {

using exact::Ball;
using exact::BigFloat;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// The sums below a known top at any precision. Logits further below the top than the nearest one by more than `reach`
// only widen the radius; they are at most e^-reach < 2^(-92 limbs) of the nearest one's share.
struct Tail {
  float top;
  RowSums sums;
  double nearest = std::numeric_limits<double>::infinity();  // the least gap so far
  std::int64_t far = 0;

  Tail(float row_top, std::size_t limbs) : top(row_top) { sums.limbs = limbs; }

  static double reach(std::size_t limbs) { return 64.0 * static_cast<double>(limbs); }

  void absorb(const float* logits, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) {
      if (logits[j] == top) {
        ++sums.ties;
      } else if (logits[j] < top && logits[j] > kNothing) {
        add(logits[j]);
      }
    }
  }

  void add(float z) {
    sums.others = true;
    const double gap = static_cast<double>(top) - static_cast<double>(z);
    if (nearest < 0x1p50 && gap > nearest + reach(sums.limbs)) {
      ++far;
      sums.near.third = std::max(sums.near.third, z);
      return;
    }
    nearest = std::min(nearest, gap);
    const Ball exact_gap{difference(top, z), {}};
    const Ball term = exp_minus(exact_gap.middle, sums.limbs);
    sums.mass = exact::add(sums.mass, term, sums.limbs);
    sums.moment = exact::add(sums.moment, exact::multiply(term, exact_gap, sums.limbs), sums.limbs);
    if (nearest >= NearSums::kFar) add_near(z, exact_gap);
  }

  // As if the sums were in units of e^-(top - z) from now on, if z is nearer than all others.
  void move_near(float z) {
    NearSums& near = sums.near;
    if (!(z > near.second)) return;
    if (near.second > kNothing) {
      const Ball factor = exp_minus(difference(z, near.second), sums.limbs);
      near.mass = exact::multiply(near.mass, factor, sums.limbs);
      near.moment = exact::multiply(near.moment, factor, sums.limbs);
    }
    near.third = near.second;
    near.second = z;
  }

  void add_near(float z, const Ball& gap) {
    move_near(z);
    NearSums& near = sums.near;
    if (z < near.second) near.third = std::max(near.third, z);
    const Ball term = z == near.second ? Ball::exact(1) : exp_minus(difference(near.second, z), sums.limbs);
    near.mass = exact::add(near.mass, term, sums.limbs);
    near.moment = exact::add(near.moment, exact::multiply(term, gap, sums.limbs), sums.limbs);
  }

  static BigFloat difference(float a, float b) {
    return exact::add(BigFloat::from_double(static_cast<double>(a)), BigFloat::from_double(-static_cast<double>(b)));
  }

  void merge(Tail other) {
    sums.ties += other.sums.ties;
    sums.others = sums.others || other.sums.others;
    far += other.far;
    nearest = std::min(nearest, other.nearest);
    sums.mass = exact::add(sums.mass, other.sums.mass, sums.limbs);
    sums.moment = exact::add(sums.moment, other.sums.moment, sums.limbs);
    if (nearest >= NearSums::kFar) merge_near(other);
  }

  void merge_near(Tail& other) {
    NearSums& near = sums.near;
    if (other.sums.near.second == kNothing) return;
    if (near.second == kNothing) {
      near = other.sums.near;
      return;
    }
    move_near(other.sums.near.second);
    other.move_near(near.second);
    const auto below = [&](float z) { return z < near.second ? z : kNothing; };
    near.third = std::max(below(near.third), below(other.sums.near.third));
    near.mass = exact::add(near.mass, other.sums.near.mass, sums.limbs);
    near.moment = exact::add(near.moment, other.sums.near.moment, sums.limbs);
  }

  RowSums finish() const {
    RowSums total = sums;
    if (nearest < NearSums::kFar) total.near = {};
    if (far == 0) return total;
    // x e^-x falls, so a far logit's part of the moment is at most its gap's least value times e^-that.
    const exact::Bound nearest_term = exact::magnitude(exp_minus(BigFloat::from_double(nearest), 3));
    const exact::Bound one = exact::Bound::power_of_two(0);
    const auto widen = [&](Ball& sum, double times, const exact::Bound& unit) {
      const exact::Bound bound = unit * exact::Bound::of(BigFloat::from_double(static_cast<double>(far) * times)) *
                                 exact::Bound::power_of_two(-92 * static_cast<std::int64_t>(sums.limbs));
      sum.radius = sum.radius + bound;
    };
    widen(total.mass, 1, nearest_term);
    widen(total.moment, nearest + reach(sums.limbs) + 1, nearest_term);
    widen(total.near.mass, 1, one);
    widen(total.near.moment, nearest + reach(sums.limbs) + 1, one);
    return total;
  }
};

}  // namespace

bool Normalizer::run(Tiles& tiles, std::vector<RowState>& states, const std::function<bool(double)>& progress) const {
  const std::size_t count = rows_.active().size();
  states.assign(count, {});
  const std::vector<std::size_t> without = take_summaries(states);
  if (without.size() == count) {
    if (!pass(tiles, without, states, progress)) return false;
  } else if (!without.empty()) {
    const std::vector<Row> rows = rows_of(without);
    Tiles few(head_, hidden_, rows_.support(), rows, kernel_, threads_);
    if (!pass(few, without, states, progress)) return false;
  }
  if (rows_.dense()) return true;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < count; ++i) {
    if (states[i].ordinary && !rows_.active()[i].poisoned) open.push_back(i);
  }
  open = parametrize(open, states);
  for (std::size_t limbs = kPairLimbs; !open.empty(); limbs *= 2) {
    widen(open, limbs, states);
    open = parametrize(open, states);
  }
  return true;
}

std::vector<std::size_t> Normalizer::take_summaries(std::vector<RowState>& states) const {
  std::vector<std::size_t> without;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const RowSummary* summary = rows_.summary(rows_.active()[i]);
    if (summary == nullptr) {
      without.push_back(i);
      continue;
    }
    RowState& state = states[i];
    state.top = static_cast<float>(summary->top);
    state.ordinary = state.summarized = true;
    const fold::RelativeSums sums = fold::relative_sums(*summary);
    state.sums = {3, 1, summary->mass_error > 0, sums.rest, sums.moment, {}};
  }
  return without;
}

bool Normalizer::pass(Tiles& tiles, std::span<const std::size_t> which, std::vector<RowState>& states,
                      const std::function<bool(double)>& progress) const {
  const auto threads = static_cast<std::size_t>(threads_);
  const fold::Lanes& lanes = kernel_.lanes();
  std::vector<fold::Distribution> folds(threads * which.size());
  const bool finished = for_each(
      threads_, chunks_of(head_.vocab_size),
      [&](int worker, std::int64_t chunk) {
        const std::size_t first = static_cast<std::size_t>(worker) * which.size();
        tiles.visit(worker, chunk, [&](const TileRow& tile) {
          folds[first + tile.row].absorb(lanes, tile.last, tile.count, tile.first);
        });
      },
      progress);
  if (!finished) return false;
  for (std::size_t i = 0; i < which.size(); ++i) {
    fold::Distribution& row = folds[i];
    for (std::size_t t = 1; t < threads; ++t) row.merge(lanes, folds[t * which.size() + i]);
    RowState& state = states[which[i]];
    state.top = row.top;
    state.has_nan = row.first_nan >= 0;
    state.ordinary = row.ordinary();
    fold::RelativeSums sums;
    if (!state.ordinary || rows_.dense() || row.ties > 1 || !relative_sums(row, sums)) continue;
    state.sums = {3, 1, row.above_nothing > 1, sums.rest, sums.moment, {}};
  }
  return true;
}

std::vector<std::size_t> Normalizer::parametrize(std::span<const std::size_t> which,
                                                 std::vector<RowState>& states) const {
  std::vector<std::size_t> open;
  for (const std::size_t i : which) {
    const Row& row = rows_.active()[i];
    RowState& state = states[i];
    const auto dz = dz_row(state.sums, state.top, rows_.b(row), rows_.c(row), factors(i), exact_);
    if (dz) {
      state.dz = *dz;
    } else {
      open.push_back(i);
    }
  }
  return open;
}

std::vector<Row> Normalizer::rows_of(std::span<const std::size_t> which) const {
  std::vector<Row> rows;
  for (const std::size_t i : which) rows.push_back(rows_.active()[i]);
  return rows;
}

template <class Sums, class Make, class Take>
void Normalizer::sum_again(std::span<const std::size_t> which, Make make, Take take) const {
  const auto threads = static_cast<std::size_t>(threads_);
  const std::vector<Row> rows = rows_of(which);
  std::vector<Sums> sums;
  for (std::size_t t = 0; t < threads; ++t) {
    for (const std::size_t row : which) sums.push_back(make(row));
  }
  Tiles tiles(head_, hidden_, rows_.support(), rows, kernel_, threads_);
  for_each(threads_, chunks_of(head_.vocab_size), [&](int worker, std::int64_t chunk) {
    const std::size_t first = static_cast<std::size_t>(worker) * which.size();
    tiles.visit(worker, chunk, [&](const TileRow& tile) { sums[first + tile.row].absorb(tile.last, tile.count); });
  });
  for (std::size_t i = 0; i < which.size(); ++i) {
    for (std::size_t t = 1; t < threads; ++t) sums[i].merge(sums[t * which.size() + i]);
    take(which[i], sums[i]);
  }
}

void Normalizer::widen(std::span<const std::size_t> which, std::size_t limbs, std::vector<RowState>& states) const {
  std::vector<std::size_t> left(which.begin(), which.end());
  // The reference, which has no f64 sums either, goes by the definition at once.
  if (limbs == kPairLimbs && kernel_.lanes().sums != nullptr && !left.empty()) {
    std::vector<std::size_t> still;
    sum_again<PairSums>(
        left, [&](std::size_t row) { return PairSums(states[row].top); },
        [&](std::size_t row, const PairSums& sums) {
          if (!sums.finish(states[row].sums)) still.push_back(row);
        });
    left = std::move(still);
  }
  if (!left.empty()) {
    sum_again<Tail>(
        left, [&](std::size_t row) { return Tail(states[row].top, limbs); },
        [&](std::size_t row, const Tail& tail) { states[row].sums = tail.finish(); });
  }
  // A summary of other logits may have told a top that none reaches. Derivatives will see that; meanwhile no sum is 0.
  for (const std::size_t row : which) states[row].sums.ties = std::max<std::int64_t>(states[row].sums.ties, 1);
}

}  // namespace isologit::gradient
