#include "sample/gumbel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exact/elementary.hpp"

namespace isologit::detail::sample {
namespace {

// More contenders than this in one list are thinned out at once, so a row's state is bounded.
constexpr std::size_t kMostContenders = 64;

// The error bound of gumbel(), generously: see there.
constexpr double kSlack = 0x1p-42;

// 2 atanh(s) = 2 (s + s^3/3 + ... + s^35/35), 0 <= |s| <= 1/3: truncation below 2^-58 relative, and with the roundings
// of s and of Horner's form (each of which counts at most 1/9 in the one after) below 2^-50.
double log_ratio(double s) {
  const double square = s * s;
  double sum = 1.0 / 35;
  for (int n = 33; n >= 1; n -= 2) sum = sum * square + 1.0 / n;
  return 2 * s * sum;
}

// ln x for normal x > 0, within 2^-50 of ln m and 2^-47 of the product with k, |k| <= 65.
double log_of(double x) {
  int k = 0;
  double m = std::frexp(x, &k);
  if (m < 0.70710678) {
    m *= 2;
    --k;
  }
  return k * 0.6931471805599453 + log_ratio((m - 1) / (m + 1));
}

// -ln(-ln u), given u and 1 - u, each within 2^-52 relative and neither below 2^-65. -ln u is within 2^-48 relative:
// from 1 - u where u is near 1, where ln u loses all; so the outer logarithm errs by at most 2^-48 + 2^-46.
double gumbel(double u, double complement) {
  const double t = complement <= 0.5 ? log_ratio(complement / (2 - complement)) : -log_of(u);
  return -log_of(t);
}

exact::BigFloat exact_u(std::uint32_t first, std::uint32_t second) {
  // (2 first 2^32 + 2 second + 1) 2^-65
  const exact::BigFloat high = exact::BigFloat::from_double(static_cast<double>(first) * 0x1p33);
  const exact::BigFloat low = exact::BigFloat::from_double(static_cast<double>(second) * 2 + 1);
  return exact::scale_by_power_of_two(exact::add(high, low), -65);
}

}  // namespace

GumbelRange gumbel_range(std::uint32_t first) {
  // u lies between first 2^-32 + 2^-65 and (first + 1) 2^-32 - 2^-65.
  const double below = first == 0 ? 0x1p-65 : first * 0x1p-32;
  const double above = (first + 1.0) * 0x1p-32;
  const double complement_below = ~first == 0 ? 0x1p-65 : ~first * 0x1p-32;
  const double complement_above = (~first + 1.0) * 0x1p-32;
  return {gumbel(below, complement_above) - kSlack, gumbel(above, complement_below) + kSlack};
}

GumbelRange gumbel_range(std::uint32_t first, std::uint32_t second) {
  const std::uint64_t both = static_cast<std::uint64_t>(first) << 32 | second;
  const double u = (static_cast<double>(both) + 0.5) * 0x1p-64;
  const double complement = (static_cast<double>(~both) + 0.5) * 0x1p-64;
  const double g = gumbel(u, complement);
  return {g - kSlack, g + kSlack};
}

void Contenders::absorb(const kernels::FoldLoops& loops, const float* logits, std::int64_t count,
                        std::int64_t first_id) {
  float rival = -std::numeric_limits<float>::infinity();
  float low = 0;
  if (!list_.empty()) {
    rival = best_logit_;
    low = static_cast<float>(best_low_);
    if (static_cast<double>(low) > best_low_) low = std::nextafter(low, -std::numeric_limits<float>::infinity());
  }
  kernels::Hit hits[kernels::kMostTile];
  const std::int64_t found = loops.gumbel_hits(draw_, logits, first_id, count, rival, low, hits);
  for (std::int64_t i = 0; i < found; ++i) {
    const float logit = logits[hits[i].index];
    if (std::isinf(logit)) continue;
    consider({logit, first_id + hits[i].index, hits[i].word, 0, false, gumbel_range(hits[i].word)});
  }
}

void Contenders::offer(float logit, std::int64_t id) {
  const std::uint32_t word = kernels::draw_word(draw_, id, kernels::Word::first);
  consider({logit, id, word, 0, false, gumbel_range(word)});
}

void Contenders::merge(const Contenders& other) {
  for (const Contender& contender : other.list_) consider(contender);
  second_words_ += other.second_words_;
  exact_ = exact_ || other.exact_;
}

// The words of an id follow from the draw, so logits and ids are all.
void Contenders::write(base::ByteWriter& bytes) const {
  bytes.put(static_cast<std::int64_t>(list_.size()));
  for (const Contender& contender : list_) {
    bytes.put(contender.logit);
    bytes.put(contender.id);
  }
}

bool Contenders::merge_read(base::ByteReader& bytes) {
  std::int64_t size = 0;
  if (!bytes.get_count(size)) return false;
  for (std::int64_t i = 0; i < size; ++i) {
    float logit = 0;
    std::int64_t id = 0;
    if (!bytes.get(logit) || !bytes.get(id) || !std::isfinite(logit) || id < 0) return false;
    offer(logit, id);
  }
  return true;
}

// Whether z + g of the contender certainly lies below the best. Both differences are rounded by at most 2^-53 of at
// most 100 where the comparison is close, which the slack in the bounds exceeds; huge logits do not swallow g.
bool Contenders::beaten(const Contender& contender) const {
  return static_cast<double>(best_logit_) - static_cast<double>(contender.logit) > contender.gumbel.high - best_low_;
}

void Contenders::rise(const Contender& contender) {
  if (static_cast<double>(contender.logit) - static_cast<double>(best_logit_) > best_low_ - contender.gumbel.low) {
    best_logit_ = contender.logit;
    best_low_ = contender.gumbel.low;
  }
}

void Contenders::consider(const Contender& contender) {
  if (list_.empty()) {
    best_logit_ = contender.logit;
    best_low_ = contender.gumbel.low;
  } else {
    if (beaten(contender)) return;
    rise(contender);
    drop_beaten();
  }
  list_.push_back(contender);
  if (list_.size() > kMostContenders) reduce();
}

void Contenders::drop_beaten() {
  std::erase_if(list_, [&](const Contender& contender) { return beaten(contender); });
}

void Contenders::reduce() {
  draw_second_words();
  if (list_.size() > kMostContenders) compare_exactly();
}

void Contenders::draw_second_words() {
  for (Contender& contender : list_) {
    if (contender.has_second) continue;
    contender.second = kernels::draw_word(draw_, contender.id, kernels::Word::second);
    contender.has_second = true;
    contender.gumbel = gumbel_range(contender.first, contender.second);
    ++second_words_;
    rise(contender);
  }
  drop_beaten();
}

void Contenders::compare_exactly() {
  // Equal z and equal u: the lowest id. All others are told apart by enough precision.
  const auto same = [](const Contender& a, const Contender& b) {
    return a.logit == b.logit && a.first == b.first && a.second == b.second;
  };
  const auto in_order = [](const Contender& a, const Contender& b) {
    if (a.logit != b.logit) return a.logit > b.logit;
    if (a.first != b.first) return a.first > b.first;
    return a.second != b.second ? a.second > b.second : a.id < b.id;
  };
  std::sort(list_.begin(), list_.end(), in_order);
  list_.erase(std::unique(list_.begin(), list_.end(), same), list_.end());
  for (std::size_t limbs = 3; list_.size() > 1; limbs *= 2) {
    exact_ = true;
    std::vector<exact::Ball> sums;
    std::size_t best = 0;
    for (const Contender& contender : list_) {
      const exact::Ball u{exact_u(contender.first, contender.second), {}};
      const exact::Ball t = exact::negate(exact::log(u, limbs));
      sums.push_back(
          exact::subtract(exact::Ball::exact(static_cast<double>(contender.logit)), exact::log(t, limbs), limbs));
      if (exact::sign(exact::subtract(sums.back(), sums[best], limbs)) > 0) best = sums.size() - 1;
    }
    std::vector<Contender> left;
    for (std::size_t i = 0; i < list_.size(); ++i) {
      if (exact::sign(exact::subtract(sums[best], sums[i], limbs)) <= 0) left.push_back(list_[i]);
    }
    list_ = std::move(left);
  }
}

Pick Contenders::pick() {
  if (list_.size() > 1) draw_second_words();
  if (list_.size() > 1) compare_exactly();
  return {list_.front().id, list_.front().logit};
}

}  // namespace isologit::detail::sample
