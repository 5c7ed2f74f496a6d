// The arithmetic of the cuts (CONTRACT.md 4). Each cut keeps a prefix of a row's order (logits descending, equal ones
// by ascending id), so what all three keep together is a prefix as well.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exact/ball.hpp"
#include "fold/distribution.hpp"
#include "fold/top_k.hpp"

namespace isologit::fold {

// A stretch of a row's order. Masses are in units of e^top. The logits equal to the top are counted apart, so that a
// comparison which they balance exactly is decided by whether there are others at all.
struct Part {
  std::int64_t count = 0;  // of logits above -inf
  std::int64_t ties = 0;   // of these, equal to the top
  exact::Ball others;      // the mass of the rest

  bool has_others() const { return count > ties; }
};
Part join(const Part& a, const Part& b, std::size_t limbs);
exact::Ball mass(const Part& part, std::size_t limbs);

// One logit's share of a Part, in f64 (limbs 0) or in ball arithmetic.
struct Term {
  enum class Kind { tie, near, far } kind = Kind::tie;
  double value = 0;
  exact::Ball ball;
};
Term term_of(float top, float logit, std::size_t limbs);

class PartSum {
 public:
  // limbs 0: f64.
  explicit PartSum(std::size_t limbs = 0) : limbs_(limbs) {}
  void add(const Term& term);
  void merge(const PartSum& other);
  Part part() const;
  std::int64_t count() const { return count_; }

 private:
  std::size_t limbs_;
  std::int64_t count_ = 0;
  std::int64_t ties_ = 0;
  std::int64_t far_ = 0;
  Compensated sum_;
  exact::Ball ball_;
};

// Whether prefix >= top_p (prefix + beyond): 1 yes, -1 no, 0 not to be told at this precision. `beyond` follows on
// `prefix`, which has the first of the row.
int reaches(const Part& prefix, const Part& beyond, float top_p, std::size_t limbs);

// The least logit z with e^(z - top) >= min_p; min_p in (0, 1].
float min_p_limit(float top, float min_p);

}  // namespace isologit::fold
