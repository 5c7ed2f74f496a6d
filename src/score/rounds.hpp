// The rounds of a score (isologit/partial.hpp): what is kept of each row, how a shard's tiles enter it, how states of
// several parties become one, and how a round ends.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/parties.hpp"
#include "fold/exact_distribution.hpp"
#include "fold/normalizer.hpp"
#include "fold/row.hpp"
#include "isologit/partial.hpp"
#include "tiles/support.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::score {

class Rounds {
 public:
  // The request was validated. All calls are made within tiles::call. Throws std::bad_alloc.
  Rounds(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms, const ScoreRequest& request,
         const ScoreOptions& options, const kernels::Target& target, int threads);

  Result<void> validate(const Shard& shard) const;
  // The shard was validated.
  Result<void> absorb(const Shard& shard, const std::function<bool(double)>& progress);
  std::vector<std::byte> state();
  Result<void> merge(std::span<const std::byte> state);
  // Puts the states of all parties in the place of this one's.
  void exchange(const base::Parties& parties);
  Result<bool> finish_round();
  const ScoreReport& report() const { return report_; }
  const ScoreOptions& options() const { return options_; }

 private:
  enum class Phase : std::uint8_t { targets, first, exact, done };

  // The logit of an id that a row scores: without temperature, and after all transforms.
  struct IdLogit {
    std::int64_t id = 0;
    bool seen = false;
    float raw = 0;
    float logit = 0;
  };
  // The sums of an exact round over a row's kept, dropped and raw distribution.
  using ExactSums = std::array<fold::ExactDistribution, 3>;
  // A row that still takes part.
  struct ScoredRow {
    std::int64_t index = 0;         // in hidden
    std::vector<IdLogit> captured;  // ascending ids, each once
    fold::Row folds;
    ExactSums exact;
  };
  // What one thread keeps for a block of rows.
  struct BlockState {
    std::vector<fold::Row> folds;
    std::vector<ExactSums> exact;
  };

  void plan();
  ScoredRow new_row(std::int64_t index) const;
  static std::size_t captured_at(const ScoredRow& row, std::int64_t id);
  void for_each_row(std::size_t begin, std::size_t count, const std::function<void(std::size_t)>& work) const;

  void absorb_targets(const Shard& shard, const tiles::Tiles& tiles);
  void begin_block(std::size_t begin, std::size_t count);
  void absorb_row(const Shard& shard, const tiles::Tiles& tiles, const tiles::RowTile& tile, ScoredRow& row,
                  BlockState& block);
  void end_block(std::size_t begin, std::size_t count);

  Result<std::vector<ScoredRow>> read_state(base::ByteReader& bytes) const;
  void merge_rows(const std::vector<ScoredRow>& others);
  void forget_sums();
  void merge_waiting();

  ExactSums empty_sums(const ScoredRow& row) const;
  void begin_exact_round(std::vector<ScoredRow> undecided);
  // Writes the row's results; false when a float could not be proven.
  bool finish_row(const ScoredRow& row);
  std::optional<fold::Normalizer> normalizer(const fold::Distribution& state,
                                             const fold::ExactDistribution& exact) const;
  bool finish_kept(const ScoredRow& row, const std::optional<fold::Normalizer>& known);
  bool finish_log_kept(const ScoredRow& row, const std::optional<fold::Normalizer>& of_kept);
  bool finish_raw(const ScoredRow& row, const std::optional<fold::Normalizer>& of_kept);
  void finish_ids(const ScoredRow& row);
  void fill_floats(std::int64_t i, float lse, float others);
  void store_ignored(std::int64_t i);

  std::int64_t vocab_size_;
  std::int64_t cols_;
  Transforms transforms_;
  ScoreRequest request_;
  ScoreOptions options_;
  const kernels::Target& target_;
  int threads_;
  tiles::SupportReader support_;
  fold::RowPlan plan_;
  Phase phase_ = Phase::first;
  std::size_t limbs_ = 3;
  std::vector<ScoredRow> rows_;
  std::vector<BlockState> blocks_;
  // States of others, until all that this round has are merged: f64 sums depend on the order of merges, and with them
  // which rows are undecided. All parties with the same states merge them in the same order.
  std::vector<std::vector<std::byte>> waiting_;
  ScoreReport report_;
};

// All rounds of a head by a target, which the report names; alone or with the peers of the options. The request was
// validated. Throws std::bad_alloc.
Result<ScoreReport> run(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                        const kernels::Target& target, int threads);

}  // namespace isologit::detail::score
