#include "backward/wide_factor.hpp"

#include <utility>

namespace isologit::detail::backward {

WideFactor wide_factor(exact::LowRankFactor factor) {
  // Products with f32 numbers and sums of fewer than 2^60 of them stay far inside of f64's range.
  constexpr double kLeast = 0x1p-600;
  constexpr double kMost = 0x1p600;
  constexpr exact::Format kPart{24, exact::kF64.emin, exact::kF64.emax};
  WideFactor wide{std::move(factor), 0, {}, true};
  if (wide.exact.special != 0) {  // NaN too
    wide.near = wide.exact.special;
    for (double& part : wide.parts) part = wide.near;
    wide.plain = std::isnan(wide.near);
    return wide;
  }
  exact::BigFloat rest = wide.exact.value;
  wide.near = exact::round(rest, exact::kF64);
  wide.plain = rest.is_zero() || (std::fabs(wide.near) >= kLeast && std::fabs(wide.near) <= kMost);
  if (!wide.plain) return wide;
  for (double& part : wide.parts) {
    part = exact::round(rest, kPart);
    rest = exact::subtract(rest, exact::BigFloat::from_double(part));
  }
  return wide;
}

void DefinedSum::add(const exact::LowRankFactor& x, double y) {
  if (std::isnan(special_)) return;  // nothing changes that
  if (x.special != 0) {
    special_ += x.special * y;
  } else if (!std::isfinite(y)) {
    special_ += exact::sign_of(x.value) * y;
  } else if (y != 0 && !x.value.is_zero()) {
    finite_ = exact::add(finite_, exact::multiply(x.value, exact::BigFloat::from_double(y)));
  }
}

double DefinedSum::round(double before, const exact::Format& format) {
  if (std::isfinite(before)) {
    add(exact::BigFloat::from_double(before));
  } else {
    add_special(before);
  }
  return exact::round_sum(finite_, special_, format);
}

}  // namespace isologit::detail::backward
