// The fold behind lse, logprob, entropy and argmax: what one row keeps of a stream of tiles. A monoid: empty state,
// absorb a tile, merge two states; tiles and merges may come in any order, for the results are decided by proven
// intervals and not by the order of the sums.
//
// With top the greatest logit so far, at id top_id, the state holds
//   mass   = sum over all ids but top_id of e^z          (so that near-certain rows keep relative precision)
//   moment = sum over the same of e^z (top - z)
//   squares = sum over the same of e^2z
// in units of 2^scale (squares: 2^(2 scale)), scale = round(top / ln 2): a new top rescales them by a power of two,
// exactly.
#pragma once

#include <cstdint>
#include <limits>

#include "base/bytes.hpp"
#include "exact/ball.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::fold {

// An accumulator of positive doubles, error below 2^-80 relative: high + low by two-sum.
struct Compensated {
  double high = 0;
  double low = 0;

  void add(double x);
  void multiply_by_power_of_two(int exponent);
};

struct Distribution {
  float top = -std::numeric_limits<float>::infinity();
  std::int64_t top_id = -1;
  std::int64_t ties = 0;             // logits equal to top
  std::int64_t first_nan = -1;       // lowest id whose logit is NaN
  std::int64_t above_minus_inf = 0;  // logits above -inf
  std::int64_t absorbed = 0;         // all logits
  std::int64_t rises = 0;            // how often moment was moved to a new top; each costs it 2^-51
  int scale = 0;
  bool summed = true;        // whether sums are wanted at all
  bool mass_alone = false;   // moment and squares are not wanted
  bool unsummed = false;     // f64 sums were not possible: a top above 2^20, or a table without them
  bool skipped_low = false;  // logits below -2^20 were left out of the sums
  Compensated mass;
  Compensated moment;
  Compensated squares;

  // logits[0, count) are those of ids first_id, first_id + 1, ...; the buffer goes on with -inf to a multiple of
  // kernels::kLaneGroup. It is written to and restored.
  void absorb(const kernels::FoldLoops& loops, float* logits, std::int64_t count, std::int64_t first_id);
  void merge(const kernels::FoldLoops& loops, const Distribution& other);

  // Finite top, and no special row of CONTRACT.md 3.
  bool ordinary() const;

  void write(base::ByteWriter& bytes) const;
  // False when the bytes are not such a state.
  bool read(base::ByteReader& bytes);

 private:
  void raise(float new_top);
  void add_sums(const kernels::FoldLoops& loops, const float* logits, std::int64_t count);
};

// The sums relative to the top, e^top = 1, as balls, over all ids but top_id: rest = sum of e^(z - top), moment = sum
// of e^(z - top) (top - z), squares = sum of e^(2 (z - top)).
struct RelativeSums {
  exact::Ball rest;
  exact::Ball moment;
  exact::Ball squares;
  // The greatest of those logits, from the exact rounds; NaN while unknown.
  float second = std::numeric_limits<float>::quiet_NaN();
};

// What the f64 sums prove, or nothing when the logits left the range they hold for.
bool relative_sums(const Distribution& state, RelativeSums& sums);

}  // namespace isologit::detail::fold
