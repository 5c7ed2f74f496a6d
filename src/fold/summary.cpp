#include "fold/summary.hpp"

#include <algorithm>
#include <cmath>

namespace isologit::detail::fold {
namespace {

using exact::Ball;
using exact::BigFloat;
using exact::Bound;

// Writes the ball as a double and a bound of its distance from any number of the ball.
void store(const Ball& ball, double& value, double& error) {
  value = exact::round(ball.middle, exact::kF64);
  if (ball.is_exact() && ball.middle.is_zero()) return;
  const Bound least = Bound::power_of_two(-1000);  // no smaller one can be told as a double
  const Bound rounding = exact::magnitude(ball) * Bound::power_of_two(-53);
  const Bound bound = ball.radius + rounding + least;
  error = std::ldexp(bound.mantissa, static_cast<int>(std::min<std::int64_t>(bound.exponent, 1023)));
}

Ball ball(double value, double error) {
  Ball result = Ball::exact(value);
  result.radius = Bound::of(BigFloat::from_double(error));
  return result;
}

}  // namespace

RowSummary summarize(const Distribution& distribution, const RelativeSums& sums) {
  RowSummary summary;
  if (distribution.ties != 1) return summary;
  summary.top = static_cast<double>(distribution.top);
  store(sums.rest, summary.mass, summary.mass_error);
  store(sums.moment, summary.moment, summary.moment_error);
  return summary;
}

RelativeSums relative_sums(const RowSummary& summary) {
  RelativeSums sums;
  sums.rest = ball(summary.mass, summary.mass_error);
  sums.moment = ball(summary.moment, summary.moment_error);
  return sums;
}

}  // namespace isologit::detail::fold
