// Scoring a head whose vocabulary is split: over weight blocks in one process, or over processes that exchange bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "isologit/score.hpp"

namespace isologit {

namespace detail::score {
class Rounds;
}

// A block of the vocabulary: ids [first_id, first_id + head.vocab_size). The transforms of all blocks must agree.
struct Shard {
  Head head;
  std::int64_t first_id = 0;
};

// A score made in rounds, the same bits whatever the split. Every party holds the same request; in each round it
// absorbs its own shards, hands out its state, merges the others' states in any order and finishes the round:
//
//   do {
//     for (own shards) absorb(shard);
//     for (states of the others in this round) merge(bytes);   // own state: state(), taken after absorbing
//   } while (!*finish_round());
//
// All parties then agree on whether another round is needed, and each has all results. There is one round, one more in
// front where rank is asked for (its targets' logits come first), and further ones only for rows that f64 could not
// decide. A party may hold no shard. The views in the request must stay valid throughout.
class PartialScore {
 public:
  // vocab_size and cols are those of the whole head.
  static Result<PartialScore> begin(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                                    const ScoreRequest& request, const ScoreOptions& options = {});
  PartialScore(PartialScore&&) noexcept;
  PartialScore& operator=(PartialScore&&) noexcept;
  ~PartialScore();

  Result<void> absorb(const Shard& shard);

  // This round's state: for exchange between processes of the same version and byte order.
  Result<std::vector<std::byte>> state() const;
  // Bytes that are not a state of this round and request are refused.
  Result<void> merge(std::span<const std::byte> state);

  // True when the outputs are written and no round is left.
  Result<bool> finish_round();

  const ScoreReport& report() const;

 private:
  explicit PartialScore(std::unique_ptr<detail::score::Rounds> rounds);
  std::unique_ptr<detail::score::Rounds> rounds_;
};

}  // namespace isologit
