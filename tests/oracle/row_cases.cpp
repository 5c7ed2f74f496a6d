#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"

namespace isologit::oracle {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();

float narrow(double x) { return static_cast<float>(x); }

// A top and a logit below it. The first pairs have midpoint gaps of many sizes, found by trying; the last ones lie at
// the end of the range of f32: 2^128 - 2^103 is where rounding turns to inf.
std::pair<float, float> gap_pair(Random& random, std::uint64_t kind) {
  constexpr double sizes[] = {20.0, 20.0, 1000.0, 500000.0, 0x1p100, 0x1p126, 0x1p-100};
  constexpr std::pair<float, float> fixed[] = {
      {200.0F, -(100.0F + 0x1p-16F)}, {largest, -0x1p103F}, {largest, -0x1.fffffep102F}, {largest, -largest}};
  kind %= std::size(sizes) + std::size(fixed);
  if (kind >= std::size(sizes)) return fixed[kind - std::size(sizes)];
  for (;;) {
    const float top = narrow(sizes[kind] * (1.0 + 0.25 * random.uniform()));
    const float low = narrow(-sizes[kind] * (1.0 + 0.25 * random.uniform()));
    if (is_midpoint_gap(top, low)) return {top, low};
  }
}

// Between the pair there is nothing: what else is in the row lies at or below twice the lower logit.
void fill_midpoint_gap(Random& random, std::vector<float>& z, std::uint64_t seed) {
  const auto [top, low] = gap_pair(random, seed);
  for (float& x : z) {
    const double below = static_cast<double>(low) * (2.0 + random.uniform());
    x = random.below(3) == 0 ? -infinity : narrow(std::max(below, -static_cast<double>(largest)));
  }
  z.back() = low;
  z.front() = top;
}

// The others share about 10^-k of the mass.
void fill_near_certain(Random& random, std::vector<float>& z, std::uint64_t seed) {
  const double digits = 1.0 + static_cast<double>(seed % 30);
  const double each = digits * 2.302585 + static_cast<double>(std::bit_width(z.size() - 1)) * 0.693147;
  const auto top = static_cast<double>(random.between(-20, 20));
  for (float& x : z) x = narrow(top - each + 0.25 * random.normal());
  z[random.below(z.size())] = narrow(top);
}

void sprinkle(Random& random, std::vector<float>& z, float value) {
  for (std::uint64_t i = 0; i <= z.size() / 64; ++i) z[random.below(z.size())] = value;
}

void fill_masked_like(Random& random, std::vector<float>& z) {
  constexpr float fillers[] = {-1e9F, -1e30F, -largest, -infinity};
  for (float& x : z) {
    if (random.below(2) == 0) x = fillers[random.below(std::size(fillers))];
  }
}

}  // namespace

std::string_view name_of(RowFamily family) {
  constexpr std::string_view names[] = {"normal",   "near_certain", "two_level",     "all_equal",
                                        "top_ties", "one_finite",   "all_minus_inf", "plus_inf",
                                        "nan",      "midpoint_gap", "subnormal",     "masked_like"};
  return names[static_cast<std::size_t>(family)];
}

bool is_midpoint_gap(float top, float z) {
  const Gap gap = gap_between(top, z);
  const float nearest = narrow(gap.hi);
  if (gap.lo != 0 || static_cast<double>(nearest) == gap.hi || std::isinf(nearest)) return false;
  const float other = std::nextafter(nearest, gap.hi > static_cast<double>(nearest) ? infinity : -infinity);
  return std::fabs(gap.hi - static_cast<double>(nearest)) == std::fabs(static_cast<double>(other) - gap.hi);
}

std::vector<float> make_row(RowFamily family, std::int64_t vocab, std::uint64_t seed) {
  Random random(seed * 64 + 32 + static_cast<std::uint64_t>(family));
  std::vector<float> z(static_cast<std::size_t>(vocab));
  const double sigma = 1.0 + static_cast<double>(seed % 30);
  for (float& x : z) x = narrow(sigma * random.normal());
  switch (family) {
    case RowFamily::normal: break;
    case RowFamily::near_certain: fill_near_certain(random, z, seed); break;
    case RowFamily::two_level: {
      const float levels[] = {z.front(), narrow(static_cast<double>(z.front()) - 10.0 * random.uniform())};
      for (float& x : z) x = levels[random.below(2)];
      break;
    }
    case RowFamily::all_equal: std::fill(z.begin(), z.end(), float{z.front()}); break;
    case RowFamily::top_ties: sprinkle(random, z, *std::max_element(z.begin(), z.end())); break;
    case RowFamily::one_finite: {
      const float kept = z.front();
      std::fill(z.begin(), z.end(), -infinity);
      z[random.below(z.size())] = kept;
      break;
    }
    case RowFamily::all_minus_inf: std::fill(z.begin(), z.end(), -infinity); break;
    case RowFamily::plus_inf: sprinkle(random, z, infinity); break;
    case RowFamily::nan: sprinkle(random, z, std::numeric_limits<float>::quiet_NaN()); break;
    case RowFamily::midpoint_gap: fill_midpoint_gap(random, z, seed); break;
    case RowFamily::subnormal:
      for (float& x : z) x = narrow(std::ldexp(static_cast<double>(random.between(-1000, 1000)), -149));
      break;
    case RowFamily::masked_like: fill_masked_like(random, z); break;
  }
  return z;
}

}  // namespace isologit::oracle
