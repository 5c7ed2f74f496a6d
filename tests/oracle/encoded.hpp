// CONTRACT.md 1 for weights of f64 and f8: numbers as rationals.
#pragma once

#include <gmpxx.h>

#include <cstdint>
#include <vector>

#include "isologit/encoded_weight.hpp"

namespace isologit::oracle {

// A rational, or what is not finite.
struct Number {
  mpq_class finite;
  double special = 0;  // 0: finite holds
};

Number number_of(double x);
// An f8 element times its scale, by the product asked for.
Number f8_number(Encoding encoding, std::uint8_t bits, double scale, F8Product product);

// Σ h[k]·w[k] + bias, and a number rounded once to the type.
Number sum_of(const std::vector<double>& h, const std::vector<Number>& w, double bias);
float rounded(const Number& x, DType result);

}  // namespace isologit::oracle
