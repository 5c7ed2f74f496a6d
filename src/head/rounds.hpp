// The rounds of a score (isologit/partial.hpp): what is kept of each row, how a shard's tiles enter it, how states of
// several parties become one, and how a round ends.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "dot/dot.hpp"
#include "fold/exact_distribution.hpp"
#include "fold/row.hpp"
#include "head/stream.hpp"
#include "head/support.hpp"
#include "isologit/partial.hpp"

namespace isologit {

class PartialScore::Rounds {
 public:
  // The request was validated. Throws std::bad_alloc.
  Rounds(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms, const ScoreRequest& request,
         const ScoreOptions& options, const dot::Kernel& kernel, int threads);

  Result<void> absorb(const Shard& shard);
  std::vector<std::byte> state() const;
  Result<void> merge(std::span<const std::byte> state);
  Result<bool> finish_round();
  const ScoreReport& report() const { return report_; }

 private:
  enum class Phase : std::uint8_t { targets, first, exact, done };

  // The logit of an id that a row scores: without temperature, and after all transforms.
  struct Captured {
    std::int64_t id = 0;
    bool seen = false;
    float raw = 0;
    float logit = 0;
  };
  // The sums of an exact round over a row's kept, dropped and raw distribution.
  using ExactSums = std::array<fold::ExactDistribution, 3>;
  // A row that still takes part.
  struct RowState {
    std::int64_t index = 0;          // in hidden
    std::vector<Captured> captured;  // ascending ids, each once
    fold::Row folds;
    ExactSums exact;
  };
  // What one thread keeps for a block of rows, and its scratch.
  struct Worker {
    std::vector<fold::Row> folds;
    std::vector<ExactSums> exact;
    std::vector<std::uint8_t> in_support;
    std::vector<float> dropped;
  };

  void plan();
  RowState new_row(std::int64_t index) const;
  float temperature(std::int64_t row) const;
  static std::size_t captured_at(const RowState& row, std::int64_t id);
  void for_each(std::size_t count, const std::function<void(std::size_t)>& work) const;

  void absorb_targets(const Shard& shard, head::Stream& stream);
  void begin_block(std::size_t begin, std::size_t count);
  void absorb_row(const Shard& shard, const head::Stream& stream, const head::LogitTile& tile, std::size_t row,
                  std::size_t slot, Worker& worker);
  void absorb_kept(RowState& row, std::size_t slot, Worker& worker, float* logits, std::int64_t count,
                   std::int64_t first_id);
  void end_block(std::size_t begin, std::size_t count);

  ExactSums empty_sums(const RowState& row) const;
  void begin_exact_round(std::vector<RowState> undecided);
  // Writes the row's results; false when a float could not be proven.
  bool finish_row(const RowState& row);
  bool finish_floats(const RowState& row);
  bool finish_kept(const RowState& row);
  bool finish_log_kept(const RowState& row);
  bool finish_raw(const RowState& row);
  void finish_ids(const RowState& row);
  void fill_floats(std::int64_t i, float lse, float others);
  void store_ignored(std::int64_t i);

  std::int64_t vocab_size_;
  std::int64_t cols_;
  Transforms transforms_;
  ScoreRequest request_;
  ScoreOptions options_;
  const dot::Kernel& kernel_;
  int threads_;
  head::SupportReader support_;
  fold::RowPlan plan_;
  Phase phase_ = Phase::first;
  std::size_t limbs_ = 3;
  std::vector<RowState> rows_;
  std::vector<Worker> workers_;
  ScoreReport report_;
};

}  // namespace isologit
