// dz of all contributing rows, strip by strip: a strip is a run of chunks of the vocabulary, held as
// [chunk][row][kChunk] f32. What a fast estimate leaves open is settled within the strip, at doubling precision.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "backward/first_pass.hpp"
#include "base/parties.hpp"

namespace isologit::detail::backward {

class Derivatives {
 public:
  // loops: null to settle every dz in multiple precision. Throws std::bad_alloc.
  Derivatives(const Head& head, const BackwardRequest& request, const ActiveRows& rows, const kernels::Target& target,
              const kernels::BackwardLoops* loops, bool exact, int threads, const base::Parties& parties);

  std::size_t rows() const { return rows_.active().size(); }
  std::int64_t chunks() const { return chunks_of(head_.vocab_size); }

  // This or take_states comes before `make`. False when progress returned false.
  bool normalize(const std::function<bool(double)>& progress);
  // What `all` has found out of its rows `which`, which are the rows of this one.
  void take_states(const Derivatives& all, std::span<const std::size_t> which);

  // Writes chunks [first, first + count) to `strip`. False when progress returned false, or the logits do not bear out
  // a summary.
  bool make(std::int64_t first, std::int64_t count, float* strip, const std::function<bool(double)>& progress);

  // As `make` of no chunks: among parties that share a vocabulary all call `make` or this equally often, since what one
  // of them cannot settle takes a pass over the vocabulary of all.
  void take_part() { settle_all({}); }
  // Counts the tops of all parties, for mismatch(true).
  void share_tops();

  // The first row (of `hidden`) whose summary the logits do not bear out, all chunks or some of them being made; -1:
  // none.
  std::int64_t mismatch(bool all_made) const;

  std::int64_t logit_fallbacks() const { return tiles_.fallbacks(); }
  std::int64_t fallbacks() const { return fallbacks_; }

 private:
  struct Open {
    std::size_t row;
    std::int64_t id;
    Logit logit;
    float* dz;
  };

  bool needs_logits() const;
  // Whether no logit of the tile is above its row's top; counts those equal to it.
  bool bears_out(const tiles::RowTile& tile);
  void make_row(const tiles::RowTile& tile, float* dz, std::vector<Open>& open);
  void make_dense(const ActiveRow& row, const tiles::RowTile& tile, float* dz, std::vector<Open>& open) const;
  void make_ordinary(const tiles::RowTile& tile, const std::uint8_t* in_support, float* dz,
                     std::vector<Open>& open) const;
  void settle_all(std::vector<Open> open);
  // Whether any party has some; `rows` becomes those of all parties.
  bool any_party(bool some) const;
  void share_rows(std::vector<std::size_t>& rows) const;
  std::optional<float> settle_one(const Open& open) const;

  const Head& head_;
  const ActiveRows& rows_;
  const kernels::BackwardLoops* loops_;
  bool exact_;
  int threads_;
  const base::Parties& parties_;
  bool finite_;  // hidden, weight and bias
  FirstPass first_pass_;
  tiles::Tiles tiles_;
  const kernels::FoldLoops& fold_loops_;
  std::vector<NormalizedRow> states_;
  std::mutex mutex_;
  std::vector<std::int64_t> tops_;  // how often each row's top was seen; -1: a logit was above it or NaN
  std::int64_t fallbacks_ = 0;
};

}  // namespace isologit::detail::backward
