// The first pass over the vocabulary: each row's top and the sums below it (backward/derivative.hpp).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backward/products.hpp"
#include "backward/upstream.hpp"
#include "base/parties.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::backward {

struct NormalizedRow {
  float top = 0;
  bool has_nan = false;
  bool ordinary = false;    // a finite top and no NaN: `sums` and `dz` hold
  bool summarized = false;  // from a summary, which the logits must bear out
  fold::RowSums sums;
  kernels::DzRow dz;
};

class FirstPass {
 public:
  FirstPass(const Head& head, const BackwardRequest& request, const ActiveRows& rows, const kernels::Target& target,
            bool exact, int threads, const base::Parties& parties)
      : head_(head),
        request_(request),
        rows_(rows),
        target_(target),
        exact_(exact),
        threads_(threads),
        parties_(parties) {}

  // States of rows.active(), whose tiles these are. False when progress returned false.
  bool run(tiles::Tiles& tiles, std::vector<NormalizedRow>& states, const std::function<bool(double)>& progress) const;

  // Makes the sums of the given rows (indices into rows.active()) anew: in pairs of doubles for kPairLimbs where
  // they reach, else in ball arithmetic. `dz` stays as it was, so that estimates do not depend on when that happened.
  void widen(std::span<const std::size_t> which, std::size_t limbs, std::vector<NormalizedRow>& states) const;

  Factors factors(std::size_t row) const { return {head_.transforms, rows_.active()[row].temperature}; }

 private:
  // The states of rows that come with a summary; returns the others.
  std::vector<std::size_t> take_summaries(std::vector<NormalizedRow>& states) const;
  // The states of the given rows, whose tiles these are, by a pass over the vocabulary, without the sums of those that
  // f64 could not sum. False when progress returned false.
  bool pass(tiles::Tiles& tiles, std::span<const std::size_t> which, std::vector<NormalizedRow>& states,
            const std::function<bool(double)>& progress) const;
  // Makes `dz` of the given rows; returns those whose sums do not settle it.
  std::vector<std::size_t> parametrize(std::span<const std::size_t> which, std::vector<NormalizedRow>& states) const;
  // Tiles with these of the active rows taken.
  tiles::Tiles tiles_of(std::span<const std::size_t> which) const;
  // Visits the tiles of the whole vocabulary chunk by chunk, masked.
  bool visit_all(tiles::Tiles& tiles, std::span<const std::size_t> which,
                 const std::function<void(int, const tiles::RowTile&)>& visit,
                 const std::function<bool(double)>& progress = {}) const;

  // Puts those of all parties in the place of each one's states, for all of `which`; empty(row) is one of nothing.
  template <class Sums, class Make>
  void share(std::vector<Sums>& sums, std::span<const std::size_t> which, Make empty) const;

  // One pass over the vocabulary: make(row) is an empty sum, take(row, sum) gets the full one.
  template <class Sums, class Make, class Take>
  void sum_again(std::span<const std::size_t> which, Make make, Take take) const;

  const Head& head_;
  const BackwardRequest& request_;
  const ActiveRows& rows_;
  const kernels::Target& target_;
  bool exact_;
  int threads_;
  const base::Parties& parties_;
};

}  // namespace isologit::detail::backward
