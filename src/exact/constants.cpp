#include "exact/constants.hpp"

#include <mutex>
#include <vector>

namespace isologit::detail::exact {
namespace {

// atanh(1/n) = sum of 1 / (n^(2k+1) (2k+1)); with alternating signs it is atan(1/n).
Ball series_of_inverse(std::uint32_t n, bool alternating, std::size_t limbs) {
  Ball power = divide_by(Ball::exact(1), n, limbs);
  Ball sum = power;
  for (std::uint32_t k = 1; magnitude(power).exponent > -bits_of(limbs); ++k) {
    power = divide_by(power, n * n, limbs);
    if (alternating) power = negate(power);
    sum = add(sum, divide_by(power, 2 * k + 1, limbs), limbs);
  }
  sum.radius = sum.radius + magnitude(power);  // the rest is below the last term, the ratio being under 1/2
  return sum;
}

Ball atanh_of_inverse(std::uint32_t n, std::size_t limbs) { return series_of_inverse(n, false, limbs); }
Ball atan_of_inverse(std::uint32_t n, std::size_t limbs) { return series_of_inverse(n, true, limbs); }

// What has been made is kept: make(limbs) is a pure function, so that changes no result.
class Kept {
 public:
  template <class Make>
  Ball at(std::size_t limbs, Make make) {
    const std::lock_guard lock(mutex_);
    if (known_.size() <= limbs) known_.resize(limbs + 1);
    if (known_[limbs].middle.is_zero()) known_[limbs] = make();
    return known_[limbs];
  }

 private:
  std::mutex mutex_;
  std::vector<Ball> known_;
};

}  // namespace

Ball ln2(std::size_t limbs) {
  static Kept kept;
  return kept.at(limbs, [limbs] {
    // ln 2 = 18 atanh(1/26) - 2 atanh(1/4801) + 8 atanh(1/8749)  (Machin-like, Gourdon and Sebah 2010)
    const std::size_t wide = limbs + 1;
    const Ball a = multiply(Ball::exact(18), atanh_of_inverse(26, wide), wide);
    const Ball b = multiply(Ball::exact(2), atanh_of_inverse(4801, wide), wide);
    const Ball c = multiply(Ball::exact(8), atanh_of_inverse(8749, wide), wide);
    return add(subtract(a, b, wide), c, limbs);
  });
}

Ball pi(std::size_t limbs) {
  static Kept kept;
  return kept.at(limbs, [limbs] {
    // pi = 16 atan(1/5) - 4 atan(1/239)  (Machin 1706)
    const std::size_t wide = limbs + 1;
    const Ball a = multiply(Ball::exact(16), atan_of_inverse(5, wide), wide);
    const Ball b = multiply(Ball::exact(4), atan_of_inverse(239, wide), wide);
    return subtract(a, b, limbs);
  });
}

}  // namespace isologit::detail::exact
