#include "exact/logit.hpp"

#include <cmath>
#include <limits>

#include "exact/element.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::exact {

double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const Format& format) {
  Superaccumulator sum;
  double special = 0;  // the IEEE sum of the terms that are not finite: inf, -inf or NaN as the contract has it
  const auto add = [&](double term) {
    if (std::isfinite(term)) {
      sum.add(term);
    } else {
      special += term;
    }
  };
  for (std::int64_t k = 0; k < size; ++k) {
    // Exact: two significands of at most 24 bits, exponents from -298 to 255.
    add(static_cast<double>(load_element(hidden, hidden_dtype, k)) *
        static_cast<double>(load_element(weight, weight_dtype, k)));
  }
  add(static_cast<double>(bias));
  if (special != 0) return special;  // also true of NaN
  return sum.round(format);
}

}  // namespace isologit::exact
