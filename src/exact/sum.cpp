#include "exact/sum.hpp"

#include <cmath>

namespace isologit::detail::exact {

void Sum::add(double term) {
  if (std::isfinite(term)) {
    sum_.add(term);
  } else {
    special_ += term;
  }
}

double Sum::round(const Format& format) {
  if (std::isnan(special_)) return static_cast<double>(quiet_nan());
  return special_ != 0 ? special_ : sum_.round(format);
}

}  // namespace isologit::detail::exact
