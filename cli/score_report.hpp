// What isologit score works on and finds, and the report of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/input_rows.hpp"
#include "io/checkpoint.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

struct ScoreArguments : RowArguments {
  std::vector<std::string> with;  // raw_logprobs, sum_p2, log_kept
  std::int64_t top_k = 0;

  bool wants(const char* name) const;
};

// The rows to score: a slice of the captured ones.
struct ScoreJob {
  InputRows rows;
  std::vector<std::int64_t> token_ids;
  io::GivenIds given;  // of these rows
  RowSupport support;
  bool temperature_per_row = false;
};

// Those that were not asked for are empty.
struct Scores {
  std::vector<float> logprobs, lse, entropy, raw_logprobs, sum_p2, log_kept, ids_logprobs, top_k_logprobs;
  std::vector<std::int64_t> argmax, rank, top_k_ids;
  ScoreReport report;
  double seconds = 0;
  int ranks = 1;  // processes of mpirun that the vocabulary was split over
};

inline constexpr std::int64_t kIgnore = -100;

// The JSON object or the table of a run.
std::string score_report(const ScoreArguments& arguments, const io::Checkpoint& checkpoint, const ScoreJob& job,
                         const Scores& scores);

}  // namespace isologit::detail::cli
