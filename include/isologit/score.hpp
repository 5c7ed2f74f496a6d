// Scoring: log-probabilities of given tokens and the statistics of their distribution, streamed over tiles of the
// vocabulary. No [N, V] array is made and the weight is not copied.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit {

// What to compute for N rows. An output pointer that is null is not computed; each one that is set receives N
// elements and must overlap neither an input nor another output. Definitions: CONTRACT.md 1 to 3.
struct ScoreRequest {
  MatrixView hidden;                      // [N, H]; N may be 0
  std::span<const std::int64_t> token_ids;  // N ids in [0, vocab_size) or ignore_index; may be empty unless logprobs
                                            // or rank is asked for. token_ids[i] is scored from row i, unshifted
  std::span<const float> temperatures;    // empty (all 1), one for all rows, or N; each > 0 and finite
  std::int64_t ignore_index = -100;       // rows with this id are not computed: 0 in every output

  float* logprobs = nullptr;           // ln p(token_ids[i])
  float* lse = nullptr;                // ln of the sum of e^z
  float* entropy = nullptr;            // in nats
  std::int64_t* argmax = nullptr;      // the lowest id among the greatest logits
  std::int64_t* rank = nullptr;        // the token's place in descending order, from 1
};

struct ScoreOptions {
  int threads = 0;     // 0: as many as the process may use (affinity mask and cgroup quota)
  std::string kernel;  // a name from kernels(); empty: ISOLOGIT_KERNEL if set, else the best that runs here
  // Called between tiles from one thread at a time with the share done in [0, 1]; returning false cancels the call.
  // Must not throw.
  std::function<bool(double)> progress;
};

// What a call did. Counts tell how often the certified fast path had to hand over to wider arithmetic; they do not
// affect any bit of the results.
struct ScoreReport {
  std::string kernel;
  int threads = 0;
  std::int64_t rows = 0;               // rows computed (not ignored)
  std::int64_t logit_fallbacks = 0;    // logits settled by exact accumulation
  std::int64_t undecided_rows = 0;     // rows that took part in a further round at a wider precision
  int rounds = 1;                      // passes over the weight, 1 unless there were undecided rows
};

Result<ScoreReport> score(const Head& head, const ScoreRequest& request, const ScoreOptions& options = {});

}  // namespace isologit
