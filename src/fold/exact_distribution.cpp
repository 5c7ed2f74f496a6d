#include "fold/exact_distribution.hpp"

#include <cmath>

namespace isologit::detail::fold {

void ExactDistribution::absorb(const float* logits, std::int64_t count, std::int64_t first_id) {
  for (std::int64_t j = 0; wanted && j < count; ++j) {
    const float z = logits[j];
    if (first_id + j == top_id || z == -std::numeric_limits<float>::infinity()) continue;
    if (z > second) second = z;
    if (static_cast<double>(top) - static_cast<double>(z) > reach(sums.limbs)) {
      ++sums.far;
      continue;
    }
    const exact::Ball term = sums.add(gap_below(top, z));
    squares = exact::add(squares, exact::multiply(term, term, sums.limbs), sums.limbs);
  }
}

void ExactDistribution::merge(const ExactDistribution& other) {
  if (other.second > second) second = other.second;
  sums.merge(other.sums);
  squares = exact::add(squares, other.squares, sums.limbs);
}

void ExactDistribution::write(base::ByteWriter& bytes) const {
  bytes.put(sums.far);
  bytes.put(second);
  for (const exact::Ball* sum : {&sums.mass, &sums.moment, &squares}) exact::write(*sum, bytes);
}

bool ExactDistribution::read(base::ByteReader& bytes) {
  bool read = bytes.get_count(sums.far) && bytes.get(second) && !std::isnan(second);
  for (exact::Ball* sum : {&sums.mass, &sums.moment, &squares}) read = read && exact::read(bytes, *sum);
  return read;
}

RelativeSums ExactDistribution::finish() const {
  RelativeSums total{sums.mass, sums.moment, squares, second};
  if (sums.far == 0) return total;
  // A far logit adds less than 2^bits to rest, and at most reach times that to moment (g e^-g decreases).
  const std::size_t limbs = sums.limbs;
  const std::int64_t bits = far_exponent(limbs);
  total.rest = exact::add(total.rest, far_share(sums.far, bits), limbs + 4);
  total.moment = exact::add(total.moment, far_share(sums.far, bits + 7 + static_cast<std::int64_t>(limbs)), limbs + 4);
  total.squares = exact::add(total.squares, far_share(sums.far, 2 * bits), limbs + 4);
  return total;
}

}  // namespace isologit::detail::fold
