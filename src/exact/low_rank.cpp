#include "exact/low_rank.hpp"

#include <cmath>

#include "exact/element.hpp"
#include "exact/low_rank_sum.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::exact {

std::vector<LowRankFactor> low_rank_factors(const Lora& lora, const void* hidden, DType dtype) {
  const BigFloat scale = BigFloat::from_double(lora.scale);
  std::vector<LowRankFactor> factors(static_cast<std::size_t>(lora.a.rows));
  for (std::int64_t j = 0; j < lora.a.rows; ++j) {
    const void* row = row_data(lora.a, j);
    Sum sum;
    for (std::int64_t k = 0; k < lora.a.cols; ++k) {
      sum.add(static_cast<double>(load_element(row, lora.a.dtype, k)) *
              static_cast<double>(load_element(hidden, dtype, k)));
    }
    LowRankFactor& factor = factors[static_cast<std::size_t>(j)];
    if (sum.special() != 0) {  // NaN too
      factor.special = sum.special() * lora.scale;
    } else {
      factor.value = multiply(sum.finite(), scale);
    }
  }
  return factors;
}

void add_terms(const LowRankTerms& terms, BigFloat& finite, double& special) {
  for (std::size_t j = 0; j < terms.factors.size(); ++j) {
    const LowRankFactor& factor = terms.factors[j];
    const auto b = static_cast<double>(load_element(terms.b, terms.dtype, static_cast<std::int64_t>(j)));
    if (factor.special != 0) {
      special += factor.special * b;
    } else if (!std::isfinite(b)) {
      special += sign_of(factor.value) * b;
    } else {
      finite = add(finite, multiply(factor.value, BigFloat::from_double(b)));
    }
  }
}

}  // namespace isologit::detail::exact
