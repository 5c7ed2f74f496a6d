#include "exact/logit.hpp"

#include "exact/element.hpp"
#include "exact/low_rank_sum.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::exact {
namespace {

Sum sum_of(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
           float bias) {
  Sum sum;
  for (std::int64_t k = 0; k < size; ++k) {
    // Exact: two significands of at most 24 bits, exponents from -298 to 255.
    sum.add(static_cast<double>(load_element(hidden, hidden_dtype, k)) *
            static_cast<double>(load_element(weight, weight_dtype, k)));
  }
  sum.add(static_cast<double>(bias));
  return sum;
}

}  // namespace

double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const Format& format) {
  return sum_of(hidden, hidden_dtype, weight, weight_dtype, size, bias).round(format);
}

double logit(const void* hidden, DType hidden_dtype, const void* weight, DType weight_dtype, std::int64_t size,
             float bias, const LowRankTerms& low_rank, const Format& format) {
  Sum sum = sum_of(hidden, hidden_dtype, weight, weight_dtype, size, bias);
  BigFloat finite = sum.finite();
  double special = sum.special();
  add_terms(low_rank, finite, special);
  return round_sum(finite, special, format);
}

}  // namespace isologit::detail::exact
