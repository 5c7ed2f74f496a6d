// The sum of real numbers, rounded once, with the special values of CONTRACT.md 1.
#pragma once

#include "exact/rounding.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::exact {

class Sum {
 public:
  // A term that is not finite is remembered apart: inf, -inf, or NaN where both came.
  void add(double term);

  // Exact as a double.
  double round(const Format& format);

 private:
  Superaccumulator sum_;
  double special_ = 0;  // the IEEE sum of the terms that are not finite
};

}  // namespace isologit::detail::exact
