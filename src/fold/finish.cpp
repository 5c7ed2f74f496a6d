#include "fold/finish.hpp"

#include <cmath>
#include <limits>
#include <optional>

#include "exact/elementary.hpp"

namespace isologit::fold {

using exact::Ball;
using exact::BigFloat;

RowResults finish(const RelativeSums& sums, float top, bool several, const RowRequest& request, std::size_t limbs) {
  RowResults results;
  const auto settle = [&](std::optional<double> rounded, float& result) {
    if (rounded) {
      result = static_cast<float>(*rounded);
    } else {
      results.decided = false;
    }
  };
  const BigFloat highest = BigFloat::from_double(static_cast<double>(top));
  // ln of the sum of e^(z - top) = ln(1 + rest): positive where there is a second logit, 0 where there is none.
  const Ball excess = exact::log1p(sums.rest, limbs);
  const int excess_sign = several ? 1 : 0;
  if (request.lse) settle(exact::try_round_sum(highest, excess, excess_sign, exact::kF32), results.lse);
  if (request.logprob) {
    if (request.target == -std::numeric_limits<float>::infinity()) {
      results.logprob = request.target;
    } else {
      const BigFloat gap =
          exact::add(BigFloat::from_double(static_cast<double>(request.target)), exact::negate(highest));
      settle(exact::try_round_sum(gap, exact::negate(excess), -excess_sign, exact::kF32), results.logprob);
    }
  }
  if (request.entropy) {
    // H = -sum p ln p with p = e^(z - top) / (1 + rest): ln(1 + rest) + moment / (1 + rest), both terms positive.
    const Ball total = exact::add(Ball::exact(1), sums.rest, limbs + 1);
    settle(exact::try_round(exact::add(excess, exact::divide(sums.moment, total, limbs), limbs), exact::kF32),
           results.entropy);
  }
  return results;
}

bool finish_special(const Distribution& state, RowResults& results) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = exact::quiet_nan();
  if (state.first_nan >= 0) {
    results = {nan, nan, nan, true};
  } else if (state.above_nothing == 0) {
    results = {-infinity, nan, nan, true};
  } else if (state.top == infinity) {
    results = {infinity, nan, nan, true};
  } else {
    return false;
  }
  return true;
}

}  // namespace isologit::fold
