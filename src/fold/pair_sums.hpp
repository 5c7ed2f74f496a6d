// The sums below a row's top in pairs of doubles: some 2^-68 of relative error at a hundredth of the cost of balls. For
// rows of which one dz could not be settled with the f64 sums, or whose top occurs more than once.
#pragma once

#include <cstdint>
#include <limits>

#include "base/bytes.hpp"
#include "exact/two_sum.hpp"
#include "fold/sums_below_top.hpp"

namespace isologit::detail::fold {

// The limbs of balls that such sums count as.
inline constexpr std::size_t kPairLimbs = 4;

// high + low, |low| below an ulp or so of high.
using Pair = exact::TwoSum;

// e^-d for a gap d = high + low in (0, 690]. Relative error below 2^-76.
Pair exp_minus(const Pair& gap);

class PairSums {
 public:
  explicit PairSums(float top) : top_(top) {}

  // Logits above the top and NaN are left out.
  void absorb(const float* logits, std::int64_t count);
  void merge(const PairSums& other);

  void write(base::ByteWriter& bytes) const;
  // Reads what one with the same top wrote. False when the bytes are not that.
  bool read(base::ByteReader& bytes);

  // False when the nearest logit is so far below the top that doubles cannot hold its share.
  bool finish(RowSums& sums) const;

 private:
  void add(float z);

  float top_;
  std::int64_t ties_ = 0;
  std::int64_t terms_ = 0;
  std::int64_t far_ = 0;  // more than 690 below the top: only widen the radius
  double nearest_ = std::numeric_limits<double>::infinity();
  Pair mass_{};
  Pair moment_{};
};

}  // namespace isologit::detail::fold
