// dz of one logit: the real expression of CONTRACT.md 5, in f64 with a bound and in ball arithmetic.
//
// Of the logits in the support above -inf let top be the greatest, k the number equal to it, and d = top - z the gap of
// each. With epsilon = sum of e^-d and E = sum of d e^-d over those below the top, s = k + epsilon, p = e^-d / s and
// ln p + H = E/s - d, so before the transforms
//   dz = A + p (B + c d - c E/s),   A = d'/|S| + sum of a_j over the j with t_j = v,   B = b - sum of all a_j,
// d' the upstream of the mean logit.
// No logarithm, and it has the form m + delta of CONTRACT.md 9, m rational, delta as small as e^-gap:
//   d > 0:  m = A,         delta = p (B + c d - c E/s)
//   d = 0:  m = A + B/k,   delta = -(epsilon B + k c E/s) / (k s)
// The factors 1/T and s or 1/d keep m rational. With tau = tanh^2(z0/softcap), z0 being what the softcap is given, (m +
// delta)(1 - tau) = m + (delta - tau (m + delta)) for small tau; for large tau nothing rational is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "exact/ball.hpp"
#include "fold/sums_below_top.hpp"
#include "isologit/head.hpp"
#include "kernels/backward_loops.hpp"

namespace isologit::detail::backward {

// The upstream of one row as far as one logit sees it.
struct Upstream {
  exact::BigFloat a;  // the part of A that is this id's own
  exact::BigFloat b;  // B
  float c = 0;
  float mean = 0;  // d', shared by as many ids
  std::int64_t support = 1;
};

// The parameters between the logit of CONTRACT.md 1 and the last one.
struct Factors {
  Transforms transforms;
  float temperature = 1;
};

struct Logit {
  float uncapped;  // z0, what the softcap is given
  float last;      // z
};

// The row's numbers in f64, from its sums and B; nothing where there are no sums. With fast derivatives the f64 sums'
// own errors would show in dz, and those depend on the order they were made in: so the sums are rounded to 34 bits, and
// there is nothing where they do not prove to what.
std::optional<kernels::DzRow> dz_row(const fold::RowSums& sums, float top, const Upstream& upstream,
                                     const Factors& factors, bool exact);

// The factors alone: 1/T and s or 1/d. Within 2^-51 relatively.
double factor_of(const Factors& factors);

// The slope of the softcap at z0, 1 - tanh^2(z0 / softcap). Within 2^-42 relatively.
double slope_of(const Factors& factors, float z0);

struct Estimate {
  double value;
  double error;
};
// For any id of an ordinary row; a and a_plus_b (A and the exact A + B) are rounded to the nearest double.
Estimate estimate_dz(const kernels::DzRow& row, std::int64_t ties, const Logit& logit, double a, double a_plus_b);
// Whether the estimate settles dz; see kernels::BackwardLoops::dz.
bool settle(const Estimate& estimate, bool exact, float& dz);

// RN32 of dz where the sums prove it, else nothing.
std::optional<float> exact_dz(const fold::RowSums& sums, float top, const Logit& logit, const Upstream& upstream,
                              const Factors& factors, std::size_t limbs);
// The same for an upstream g of the last logits; always settled.
float exact_dz_of_logit(float g, float z0, const Factors& factors);

}  // namespace isologit::detail::backward
