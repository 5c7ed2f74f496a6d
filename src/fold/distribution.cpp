#include "fold/distribution.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "exact/elementary.hpp"
#include "exact/two_sum.hpp"

namespace isologit::detail::fold {
namespace {

// The range in which kernels::FoldLoops::sums holds.
constexpr float kHighest = 0x1p20F;

std::int64_t find_first(const float* logits, std::int64_t count, float value) {
  return std::find(logits, logits + count, value) - logits;
}

int scale_of(float top) { return static_cast<int>(std::nearbyint(static_cast<double>(top) * 1.4426950408889634)); }

}  // namespace

void Compensated::add(double x) {
  const exact::TwoSum sum = exact::two_sum(high, x);
  high = sum.high;
  low += sum.low;
}

void Compensated::multiply_by_power_of_two(int exponent) {
  high = std::ldexp(high, exponent);
  low = std::ldexp(low, exponent);
}

void Distribution::raise(float new_top) {
  if (std::fabs(top) <= kHighest && std::fabs(new_top) <= kHighest) {
    const int new_scale = scale_of(new_top);
    if (mass.high != 0) {
      // The terms' distance to the top grows by the same amount for all of them.
      moment.add((static_cast<double>(new_top) - static_cast<double>(top)) * (mass.high + mass.low));
      ++rises;
      mass.multiply_by_power_of_two(scale - new_scale);
      moment.multiply_by_power_of_two(scale - new_scale);
      squares.multiply_by_power_of_two(2 * (scale - new_scale));
    }
    scale = new_scale;
  } else if (new_top <= kHighest) {
    scale = scale_of(std::max(new_top, -kHighest));
  }
  top = new_top;
}

void Distribution::add_sums(const kernels::FoldLoops& loops, const float* logits, std::int64_t count) {
  if (!summed) return;
  if (loops.sums == nullptr || top > kHighest) {
    unsummed = true;
  } else if (top < -kHighest) {
    skipped_low = true;
  } else if (mass_alone) {
    mass.add(loops.mass(logits, count, scale));
  } else {
    const kernels::Sums sums = loops.sums(logits, count, top, scale);
    mass.add(sums.mass);
    moment.add(sums.moment);
    squares.add(sums.squares);
  }
}

void Distribution::absorb(const kernels::FoldLoops& loops, float* logits, std::int64_t count, std::int64_t first_id) {
  const std::int64_t padded = kernels::padded(count);
  const kernels::Scan scan = loops.scan(logits, padded);
  absorbed += count;
  above_minus_inf += scan.above_minus_inf;
  if (scan.has_nan) {
    const std::int64_t id =
        first_id + (std::find_if(logits, logits + count, [](float z) { return std::isnan(z); }) - logits);
    if (first_nan < 0 || id < first_nan) first_nan = id;
  }
  if (first_nan >= 0 || scan.above_minus_inf == 0) return;
  if (scan.greatest < top) {
    add_sums(loops, logits, padded);
    return;
  }
  const std::int64_t at = find_first(logits, count, scan.greatest);
  const std::int64_t equal = loops.count_above(logits, count, scan.greatest, true);
  if (scan.greatest == top) {
    top_id = std::min(top_id, first_id + at);
    ties += equal;
    add_sums(loops, logits, padded);
    return;
  }
  // The new top leaves the sums and the old one enters them in its place.
  logits[at] = top;
  raise(scan.greatest);
  top_id = first_id + at;
  ties = equal;
  add_sums(loops, logits, padded);
  logits[at] = scan.greatest;
}

void Distribution::merge(const kernels::FoldLoops& loops, const Distribution& other) {
  Distribution lower = other;
  if (other.top > top || (other.top == top && other.top_id < top_id)) std::swap(*this, lower);
  absorbed += lower.absorbed;
  above_minus_inf += lower.above_minus_inf;
  if (lower.first_nan >= 0 && (first_nan < 0 || lower.first_nan < first_nan)) first_nan = lower.first_nan;
  if (first_nan >= 0 || lower.top_id < 0) return;
  if (lower.top == top) ties += lower.ties;
  rises += lower.rises;
  unsummed = unsummed || lower.unsummed;
  skipped_low = skipped_low || lower.skipped_low;
  float displaced[kernels::kLaneGroup];
  std::fill(displaced, displaced + kernels::kLaneGroup, -std::numeric_limits<float>::infinity());
  displaced[0] = lower.top;
  lower.raise(top);
  mass.add(lower.mass.high);
  mass.add(lower.mass.low);
  moment.add(lower.moment.high);
  moment.add(lower.moment.low);
  squares.add(lower.squares.high);
  squares.add(lower.squares.low);
  add_sums(loops, displaced, kernels::kLaneGroup);
}

bool Distribution::ordinary() const { return first_nan < 0 && above_minus_inf > 0 && std::isfinite(top); }

void Distribution::write(base::ByteWriter& bytes) const {
  bytes.put(top);
  bytes.put(top_id);
  bytes.put(ties);
  bytes.put(first_nan);
  bytes.put(above_minus_inf);
  bytes.put(absorbed);
  bytes.put(rises);
  bytes.put(unsummed);
  bytes.put(skipped_low);
  for (const Compensated* sum : {&mass, &moment, &squares}) {
    bytes.put(sum->high);
    bytes.put(sum->low);
  }
}

bool Distribution::read(base::ByteReader& bytes) {
  unsigned char flags[2] = {};
  bool read = bytes.get(top) && bytes.get(top_id) && bytes.get_count(ties) && bytes.get(first_nan) &&
              bytes.get_count(above_minus_inf) && bytes.get_count(absorbed) && bytes.get_count(rises) &&
              bytes.get(flags[0]) && bytes.get(flags[1]);
  for (Compensated* sum : {&mass, &moment, &squares}) {
    read = read && bytes.get(sum->high) && bytes.get(sum->low) && std::isfinite(sum->high) && sum->high >= 0 &&
           std::isfinite(sum->low);
  }
  unsummed = flags[0] != 0;
  skipped_low = flags[1] != 0;
  if (std::fabs(top) <= kHighest) scale = scale_of(top);
  return read && !std::isnan(top);
}

bool relative_sums(const Distribution& state, RelativeSums& sums) {
  constexpr std::size_t kLimbs = 3;
  if (state.unsummed || (state.skipped_low && state.top < -kHighest / 2)) return false;
  sums = RelativeSums{};
  if (state.above_minus_inf <= 1) return true;  // both are exactly 0
  // kernels::FoldLoops::sums, two-sums and rescalings; `rises` for the moment alone.
  const auto bounded = [&](const Compensated& value, double relative) {
    const double total = value.high + value.low;
    exact::Ball ball = exact::Ball::exact(total);
    ball.radius = exact::Bound::of(exact::BigFloat::from_double(total * relative)) +
                  exact::Bound::of(exact::BigFloat::from_double(static_cast<double>(state.absorbed) * 0x1p-980));
    return ball;
  };
  const double relative = state.mass_alone ? 0x1p-47 : 0x1p-46;
  // From units of 2^scale to units of e^top.
  const exact::Ball unit = exact::scale_by_power_of_two(
      exact::exp(exact::Ball::exact(-static_cast<double>(state.top)), kLimbs), state.scale);
  sums.rest = exact::multiply(bounded(state.mass, relative), unit, kLimbs);
  sums.moment =
      exact::multiply(bounded(state.moment, relative + static_cast<double>(state.rises) * 0x1p-51), unit, kLimbs);
  sums.squares = exact::multiply(bounded(state.squares, relative), exact::multiply(unit, unit, kLimbs), kLimbs);
  return true;
}

}  // namespace isologit::detail::fold
