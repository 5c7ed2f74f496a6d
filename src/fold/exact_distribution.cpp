#include "fold/exact_distribution.hpp"

#include <cmath>

#include "exact/elementary.hpp"

namespace isologit::fold {
namespace {

// A logit further than this below the top contributes less than e^-gap: beyond the working precision, and with 4 limbs
// or more beyond every f32 as well. The next round has more limbs and a wider reach, so nothing is left out for good.
double reach(std::size_t limbs) { return 64.0 * static_cast<double>(limbs); }

}  // namespace

void ExactDistribution::absorb(const float* logits, std::int64_t count, std::int64_t first_id) {
  for (std::int64_t j = 0; wanted && j < count; ++j) {
    const float z = logits[j];
    if (first_id + j == top_id || z == -std::numeric_limits<float>::infinity()) continue;
    if (z > second) second = z;
    if (static_cast<double>(top) - static_cast<double>(z) > reach(limbs)) {
      ++far;
      continue;
    }
    const exact::Ball gap{exact::add(exact::BigFloat::from_double(static_cast<double>(top)),
                                     exact::BigFloat::from_double(-static_cast<double>(z))),
                          {}};
    const exact::Ball term = exact::exp(exact::negate(gap), limbs);
    sums.rest = exact::add(sums.rest, term, limbs);
    sums.moment = exact::add(sums.moment, exact::multiply(term, gap, limbs), limbs);
    sums.squares = exact::add(sums.squares, exact::multiply(term, term, limbs), limbs);
  }
}

void ExactDistribution::merge(const ExactDistribution& other) {
  far += other.far;
  if (other.second > second) second = other.second;
  sums.rest = exact::add(sums.rest, other.sums.rest, limbs);
  sums.moment = exact::add(sums.moment, other.sums.moment, limbs);
  sums.squares = exact::add(sums.squares, other.sums.squares, limbs);
}

void ExactDistribution::write(base::ByteWriter& bytes) const {
  bytes.put(far);
  bytes.put(second);
  for (const exact::Ball* sum : {&sums.rest, &sums.moment, &sums.squares}) exact::write(*sum, bytes);
}

bool ExactDistribution::read(base::ByteReader& bytes) {
  bool read = bytes.get_count(far) && bytes.get(second) && !std::isnan(second);
  for (exact::Ball* sum : {&sums.rest, &sums.moment, &sums.squares}) read = read && exact::read(bytes, *sum);
  return read;
}

RelativeSums ExactDistribution::finish() const {
  RelativeSums total = sums;
  total.second = second;
  if (far == 0) return total;
  // Each far logit adds between 0 and e^-reach < 2^(-92 limbs) to rest, and at most reach times that to moment
  // (g e^-g decreases); as balls, half of that give or take as much.
  const auto bits = static_cast<std::int64_t>(92 * limbs);
  const auto between_0_and = [&](std::int64_t exponent) {
    const exact::Bound half = exact::Bound::power_of_two(exponent - 1) * exact::Bound{static_cast<double>(far), 0};
    return exact::Ball{exact::to_bigfloat(half), half};
  };
  total.rest = exact::add(total.rest, between_0_and(-bits), limbs + 4);
  total.moment = exact::add(total.moment, between_0_and(-bits + 7 + static_cast<std::int64_t>(limbs)), limbs + 4);
  total.squares = exact::add(total.squares, between_0_and(-2 * bits), limbs + 4);
  return total;
}

}  // namespace isologit::fold
