// The arithmetic of the cuts (CONTRACT.md 4). Each cut keeps a prefix of a row's order (logits descending, equal ones
// by ascending id), so what all three keep together is a prefix as well.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.hpp"
#include "exact/ball.hpp"
#include "fold/distribution.hpp"
#include "fold/top_k.hpp"

namespace isologit::detail::sample {

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

// One logit's share of a Part: a tie with the top, or its term, or so far below that it only widens the bound.
enum class TermKind { tie, near, far };
struct Term {
  TermKind kind = TermKind::tie;
  double value = 0;  // in f64 (limbs 0)
  exact::Ball ball;  // else
};
Term term_of(float top, float logit, std::size_t limbs);

// e^(z - top) in f64 for a tile of logits, at most kMostTile; -1 for those too far below to count (-inf, NaN too).
void fast_terms(float top, const float* logits, std::int64_t count, double* terms);

// A Part in f64.
class FastSum {
 public:
  void add(TermKind kind, double value);
  // A tile's logits as fast_terms gives them, one after another; then flush().
  void add_unflushed(bool tie, double term) {
    ++count_;
    if (tie) {
      ++ties_;
    } else if (term < 0) {
      ++far_;
    } else {
      unflushed_ += term;
    }
  }
  void flush();
  void merge(const FastSum& other);
  Part part() const;
  // Of flushed sums. False when the bytes are not such a sum.
  void write(base::ByteWriter& bytes) const;
  bool read(base::ByteReader& bytes);
  std::int64_t count() const { return count_; }

 private:
  friend class PartSum;
  std::int64_t count_ = 0;
  std::int64_t ties_ = 0;
  std::int64_t far_ = 0;
  double unflushed_ = 0;
  fold::Compensated sum_;
};

// A Part at any precision; limbs 0: f64.
class PartSum {
 public:
  explicit PartSum(std::size_t limbs = 0) : limbs_(limbs) {}
  void add(const Term& term);
  void merge(const PartSum& other);
  Part part() const;
  void write(base::ByteWriter& bytes) const;
  bool read(base::ByteReader& bytes);
  std::int64_t count() const { return fast_.count(); }
  FastSum& fast() { return fast_; }  // limbs 0

 private:
  std::size_t limbs_;
  FastSum fast_;  // with limbs, its counts
  exact::Ball ball_;
};

// Whether prefix >= top_p (prefix + beyond): 1 yes, -1 no, 0 not to be told at this precision. `beyond` follows on
// `prefix`, which has the first of the row.
int reaches(const Part& prefix, const Part& beyond, float top_p, std::size_t limbs);

// The least logit z with e^(z - top) >= min_p; min_p in (0, 1].
float min_p_limit(float top, float min_p);

}  // namespace isologit::detail::sample
