// From the sums over a row's distribution to its results: the formulas of CONTRACT.md 3 in ball arithmetic, and the
// rounding test. An empty result could not be proven; the row takes part in another round at a wider precision.
#pragma once

#include <cstddef>
#include <optional>

#include "exact/ball.hpp"
#include "fold/distribution.hpp"

namespace isologit::detail::fold {

// A distribution whose greatest logit is finite.
class Normalizer {
 public:
  // several: more than one logit is above -inf, so `rest` is positive, however small.
  Normalizer(const RelativeSums& sums, float top, bool several, std::size_t limbs);

  const RelativeSums& sums() const { return sums_; }

  // lse less the top, for kernels::FoldLoops::log_softmax.
  kernels::Excess excess() const;

  std::optional<float> lse() const;
  std::optional<float> logprob(float logit) const;
  std::optional<float> entropy() const;
  std::optional<float> sum_p2() const;

  // ln of this distribution's share of its own mass and that of `others` together.
  std::optional<float> log_share(const Normalizer& others) const;

 private:
  // The sign of what log_share adds to the difference of the tops where it is known without computing it, else 0.
  int sign_of_excess_over(const Normalizer& others) const;

  RelativeSums sums_;
  exact::BigFloat top_;
  int excess_sign_;  // of excess_: 1, or 0 where there is no second logit
  std::size_t limbs_;
  exact::Ball total_;   // sum of e^(z - top) = 1 + rest
  exact::Ball excess_;  // its logarithm
};

}  // namespace isologit::detail::fold
