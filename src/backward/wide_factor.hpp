// Real numbers with more bits than f64 as factors of f32 numbers: sums of such products, in f64 with a bound or by the
// definition. For the factors of a low-rank addition (CONTRACT.md 5).
#pragma once

#include <cmath>
#include <cstdint>

#include "backward/products.hpp"
#include "exact/low_rank.hpp"
#include "exact/two_sum.hpp"

namespace isologit::detail::backward {

struct WideFactor {
  static constexpr int kParts = 3;

  exact::LowRankFactor exact;
  double near = 0;       // RN64 of it; what it is where it is not finite
  double parts[kParts];  // of 24 bits each: products with f32 numbers are exact. Within 2^-70 of it, relatively
  bool plain = true;     // near and parts can take its place: products neither leave f64's range nor meet inf in a part
};
WideFactor wide_factor(exact::LowRankFactor factor);

// A sum of products, in two f64.
struct CertifiedSum {
  double high = 0;
  double low = 0;
  double reach = 0;  // of the magnitudes of the terms
  std::int64_t terms = 0;

  // x is plain.
  void add(const WideFactor& x, double y) {
    for (const double part : x.parts) {
      const exact::TwoSum sum = exact::two_sum(high, part * y);
      high = sum.high;
      low += sum.low;
    }
    reach += std::fabs(x.near * y);
    terms += WideFactor::kParts;
  }

  // With what the parts leave out; the factors cover the roundings of reach.
  double error() const { return two_sum_error(terms, 2 * reach) + reach * 0x1p-69; }
};

// The same by the definition.
class DefinedSum {
 public:
  void add(const exact::LowRankFactor& x, double y);
  void add(const exact::BigFloat& x) { finite_ = exact::add(finite_, x); }
  void add_special(double x) { special_ += x; }

  // With what was there before, rounded once.
  double round(double before, const exact::Format& format);

 private:
  exact::BigFloat finite_;
  double special_ = 0;
};

}  // namespace isologit::detail::backward
