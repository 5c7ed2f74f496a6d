#include "fold/pair_sums.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "exact/constants.hpp"
#include "exact/elementary.hpp"

// The exponential. With L = ln 2 / 128: k = round(-d / L), |k| < 2^17, r = -d - k L, |r| < 0.00271 + 2^-44 < 2^-8.5;
// e^-d = 2^(k div 128) 2^((k mod 128) / 128) e^r.
//   L = L1 + L2 + L3 with 36 bits in L1 and in L2, so k L1 and k L2 are exact; -d.high - k L1 is exact too (Sterbenz,
//   or k = 0). r = r.high + r.low, where |r.low| < 2^-43 holds d.low and the rest, within 2^-95. e^r - 1 = r + r^2/2 +
//   tail: r.high^2 as an exact product of two doubles, r.high r.low beside it; the tail r^3/6 + ...
//   + r^8/8!, at most 2^-28, in plain doubles (2^-79 absolutely; what r.low adds to it, r.low r^2/2, with it); the rest
//   of the series is below 2^-94. What is collected in `low` stays below 2^-27, so its few roundings cost 2^-79 each.
// The table's entries and the last product are good to 2^-100. In all below 2^-76 relatively.
// The sums. Each addition is a two-sum into `high` with what it rounds off going to `low`: n terms are within n^2
// 2^-105 of their sum, which for n < 2^18 is below 2^-69. The products of the moment cost 2^-100.

namespace isologit::detail::fold {
namespace {

using exact::Ball;
using exact::BigFloat;
using exact::two_sum;

constexpr double kFurthest = 690;
constexpr int kSteps = 128;

// Exactly a * b, by Dekker's and Veltkamp's splitting; no operand here is near overflow or underflow.
Pair two_product(double a, double b) {
  const auto split = [](double x) {
    const double scaled = x * 134217729.0;  // 2^27 + 1
    const double high = scaled - (scaled - x);
    return Pair{high, x - high};
  };
  const Pair x = split(a);
  const Pair y = split(b);
  const double product = a * b;
  return {product, ((x.high * y.high - product) + x.high * y.low + x.low * y.high) + x.low * y.low};
}

void add_to(Pair& sum, const Pair& term) {
  const Pair next = two_sum(sum.high, term.high);
  sum.high = next.high;
  sum.low += next.low + term.low;
}

struct Constants {
  std::array<double, 3> step;           // L1, L2, L3
  std::array<Pair, kSteps> two_to_the;  // 2^(j / 128)

  Constants() {
    constexpr std::size_t kLimbs = 4;
    constexpr exact::Format kShort{36, exact::kF64.emin, exact::kF64.emax};
    BigFloat rest = exact::scale_by_power_of_two(exact::ln2(kLimbs).middle, -7);
    for (std::size_t i = 0; i < step.size(); ++i) {
      step[i] = exact::round(rest, i < 2 ? kShort : exact::kF64);
      rest = exact::add(rest, BigFloat::from_double(-step[i]));
    }
    const Ball unit = exact::scale_by_power_of_two(exact::ln2(kLimbs), -7);
    for (std::size_t j = 0; j < kSteps; ++j) {
      const BigFloat power = exact::exp(exact::multiply(Ball::exact(static_cast<double>(j)), unit, kLimbs), 3).middle;
      two_to_the[j].high = exact::round(power, exact::kF64);
      two_to_the[j].low = exact::round(exact::add(power, BigFloat::from_double(-two_to_the[j].high)), exact::kF64);
    }
  }
};

const Constants& constants() {
  static const Constants all;
  return all;
}

}  // namespace

Pair exp_minus(const Pair& gap) {
  const Constants& table = constants();
  const double k = std::nearbyint(-gap.high * (kSteps * 1.4426950408889634));
  const Pair r0 = two_sum(-gap.high - k * table.step[0], -k * table.step[1]);
  const Pair r = two_sum(r0.high, r0.low - gap.low - k * table.step[2]);
  const Pair square = two_product(r.high, r.high);
  const double x = r.high;
  const double series =
      1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720 + x * (1.0 / 5040 + x * (1.0 / 40320)))));
  const double tail = square.high * x * series + r.low * square.high / 2;
  const Pair main = two_sum(x, square.high / 2);
  const double low = main.low + (square.low / 2 + x * r.low + r.low + tail);
  const auto whole = static_cast<std::int64_t>(k);
  const Pair& power = table.two_to_the[static_cast<std::size_t>(whole & (kSteps - 1))];
  const Pair product = two_product(power.high, main.high);
  const Pair sum = two_sum(power.high, product.high);
  const double rest = sum.low + (product.low + power.high * low + power.low * main.high + power.low);
  const double scale = std::bit_cast<double>(static_cast<std::uint64_t>((whole >> 7) + 1023) << 52);
  const Pair result = two_sum(sum.high, rest);
  return {result.high * scale, result.low * scale};
}

void PairSums::absorb(const float* logits, std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) {
    if (logits[j] == top_) {
      ++ties_;
    } else if (logits[j] < top_ && logits[j] > -std::numeric_limits<float>::infinity()) {
      add(logits[j]);
    }
  }
}

void PairSums::add(float z) {
  const Pair gap = two_sum(static_cast<double>(top_), -static_cast<double>(z));
  nearest_ = std::min(nearest_, gap.high);
  if (gap.high > kFurthest) {
    ++far_;
    return;
  }
  ++terms_;
  const Pair term = exp_minus(gap);
  add_to(mass_, term);
  Pair weighted = two_product(term.high, gap.high);
  weighted.low += term.high * gap.low + term.low * gap.high;
  add_to(moment_, weighted);
}

void PairSums::merge(const PairSums& other) {
  ties_ += other.ties_;
  terms_ += other.terms_;
  far_ += other.far_;
  nearest_ = std::min(nearest_, other.nearest_);
  add_to(mass_, other.mass_);
  add_to(moment_, other.moment_);
}

void PairSums::write(base::ByteWriter& bytes) const {
  for (const std::int64_t number : {ties_, terms_, far_}) bytes.put(number);
  for (const double number : {nearest_, mass_.high, mass_.low, moment_.high, moment_.low}) bytes.put(number);
}

bool PairSums::read(base::ByteReader& bytes) {
  bool read = bytes.get_count(ties_) && bytes.get_count(terms_) && bytes.get_count(far_) && bytes.get(nearest_);
  for (double* number : {&mass_.high, &mass_.low, &moment_.high, &moment_.low}) {
    read = read && bytes.get(*number) && std::isfinite(*number);
  }
  return read && nearest_ > 0;
}

bool PairSums::finish(RowSums& sums) const {
  // Terms must not come near the subnormal range, where products lose their low halves; and the far ones must be
  // nothing beside the nearest.
  const bool others = terms_ + far_ > 0;
  if (others && nearest_ > 300) return false;
  if (terms_ >= std::int64_t{1} << 18) return false;
  sums = {kPairLimbs, ties_, others, {}, {}};
  if (!others) return true;
  const auto ball = [&](const Pair& sum, double far_share) {
    Ball total{exact::add(BigFloat::from_double(sum.high), BigFloat::from_double(sum.low)), {}};
    total.radius = exact::Bound::of(total.middle) * exact::Bound::power_of_two(-68) +
                   exact::Bound::of(BigFloat::from_double(static_cast<double>(far_) * far_share));
    return total;
  };
  // e^-690 < 2^-995, and x e^-x falls.
  sums.mass = ball(mass_, 0x1p-995);
  sums.moment = ball(moment_, 0x1p-985);
  return true;
}

}  // namespace isologit::detail::fold
