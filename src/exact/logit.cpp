#include "exact/logit.hpp"

#include "exact/element.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::exact {

double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const Format& format) {
  Sum sum;
  for (std::int64_t k = 0; k < size; ++k) {
    // Exact: two significands of at most 24 bits, exponents from -298 to 255.
    sum.add(static_cast<double>(load_element(hidden, hidden_dtype, k)) *
            static_cast<double>(load_element(weight, weight_dtype, k)));
  }
  sum.add(static_cast<double>(bias));
  return sum.round(format);
}

}  // namespace isologit::detail::exact
