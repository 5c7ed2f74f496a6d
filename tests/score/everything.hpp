// Everything that a score can be asked for at once, of rows with supports, ids and temperatures of their own.
#pragma once

#include <cstdint>
#include <vector>

#include "score/support.hpp"

namespace isologit::testing_score {

// Lists of ids per row and what they own.
struct Lists {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int64_t> ids;

  void add(const std::vector<std::int64_t>& row);
  IdLists view() const { return {offsets, ids}; }
};

// A request of some rows that all have the logits z, with everything that varies from row to row.
struct Case {
  GivenLogits given;
  std::int64_t rows = 4;
  std::int64_t per_row = 3;
  std::int64_t k = 5;
  std::vector<std::int64_t> token_ids, ids;
  std::vector<float> temperatures;
  std::int64_t first_id = 0, last_id = 0;
  bool has_kept = false, has_banned = false;
  Lists kept, banned;
  std::vector<std::uint8_t> stays;  // [rows, vocab], or [vocab] for all rows, or none

  // Of kept ids, banned ids, a mask and a range the seed takes some.
  Case(std::vector<float> z, std::uint64_t seed);

  std::int64_t vocab() const { return static_cast<std::int64_t>(given.z().size()); }
  ScoreRequest request() const;  // without outputs
  std::vector<std::uint8_t> mask(std::int64_t row) const;
};

// The outputs of a case. Those that are not written hold 7.
struct Everything {
  std::vector<float> logprobs, raw_logprobs, lse, entropy, sum_p2, log_kept, ids_logprobs, top_k_logprobs, logits,
      mean_logits;
  std::vector<std::int64_t> argmax, rank, top_k_ids;

  explicit Everything(const Case& tested);

  static constexpr unsigned kOutputs = 13;
  static constexpr unsigned kAll = (1U << kOutputs) - 1;
  // Bit i of `which` asks for output i.
  void ask(ScoreRequest& request, unsigned which = kAll);
  // The same with only these outputs written.
  Everything only(unsigned which, const Case& tested) const;
  std::vector<std::uint32_t> bits() const;
};

// Row i is what the oracle says of it.
void expect_row_is_right(const Case& tested, const Everything& got, std::size_t i);
void expect_rows_are_right(const Case& tested, const Everything& got);

// Scores with every output asked for; an error fails the test.
Everything score_everything(const Case& tested, const ScoreOptions& options);

}  // namespace isologit::testing_score
