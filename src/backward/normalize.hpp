// The first pass over the vocabulary: each row's top and the sums below it (backward/derivative.hpp).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backward/tiles.hpp"

namespace isologit::gradient {

struct RowState {
  float top = 0;
  bool has_nan = false;
  bool ordinary = false;    // a finite top and no NaN: `sums` and `dz` hold
  bool summarized = false;  // from a summary, which the logits must bear out
  RowSums sums;
  DzRow dz;
};

class Normalizer {
 public:
  Normalizer(const Head& head, const MatrixView& hidden, const Rows& rows, const dot::Kernel& kernel, bool exact,
             int threads)
      : head_(head), hidden_(hidden), rows_(rows), kernel_(kernel), exact_(exact), threads_(threads) {}

  // States of rows.active(), whose tiles these are. False when progress returned false.
  bool run(Tiles& tiles, std::vector<RowState>& states, const std::function<bool(double)>& progress) const;

  // Makes the sums of the given rows (indices into rows.active()) anew: in pairs of doubles for kPairLimbs where they
  // reach, else in ball arithmetic. `dz` stays as it was, so that estimates do not depend on when that happened.
  void widen(std::span<const std::size_t> which, std::size_t limbs, std::vector<RowState>& states) const;

  Factors factors(std::size_t row) const { return {head_.transforms, rows_.active()[row].temperature}; }

 private:
  // The states of rows that come with a summary; returns the others.
  std::vector<std::size_t> take_summaries(std::vector<RowState>& states) const;
  // The states of the given rows, whose tiles these are, by a pass over the vocabulary, without the sums of those that
  // f64 could not sum. False when progress returned false.
  bool pass(Tiles& tiles, std::span<const std::size_t> which, std::vector<RowState>& states,
            const std::function<bool(double)>& progress) const;
  // Makes `dz` of the given rows; returns those whose sums do not settle it.
  std::vector<std::size_t> parametrize(std::span<const std::size_t> which, std::vector<RowState>& states) const;
  std::vector<Row> rows_of(std::span<const std::size_t> which) const;

  // One pass over the vocabulary: make(row) is an empty sum, take(row, sum) gets the full one.
  template <class Sums, class Make, class Take>
  void sum_again(std::span<const std::size_t> which, Make make, Take take) const;

  const Head& head_;
  const MatrixView& hidden_;
  const Rows& rows_;
  const dot::Kernel& kernel_;
  bool exact_;
  int threads_;
};

}  // namespace isologit::gradient
