// Results of logits that are given: what an engine or a model has made and cut, scaled and penalised as it likes.
// Definitions: CONTRACT.md 3a.
#pragma once

#include <cstdint>
#include <span>

#include "isologit/backward.hpp"
#include "isologit/score.hpp"
#include "isologit/status.hpp"
#include "isologit/view.hpp"

namespace isologit {

// What to compute of N rows of logits. An output that is null is not computed; none may overlap another or an input.
struct GivenLogitsRequest {
  MatrixView logits;                        // [N, V], V >= 1; N may be 0
  std::span<const float> temperatures;      // empty (all 1), one for all rows, or N; each > 0 and finite
  std::span<const std::int64_t> token_ids;  // [N, ids_per_row], in [0, V) or ignore_index; empty: none
  std::int64_t ids_per_row = 1;
  std::int64_t ignore_index = -100;  // such an id has a logprob of 0; a row that has no other is 0 in every output

  float* logprobs = nullptr;                // [N, ids_per_row]; needs token_ids
  float* lse = nullptr;                     // [N]
  float* entropy = nullptr;                 // [N], in nats
  float* log_softmax = nullptr;             // [N, V]: the logprob of every id
  std::int64_t log_softmax_row_stride = 0;  // in elements, at least V; what lies between the rows is left alone
};

// Of the options, `arithmetic` does not count: the logits are what they are. `kernel` names the kernel whose loops run.
// On an error nothing useful is in the outputs.
Result<ScoreReport> score_logits(const GivenLogitsRequest& request, const ScoreOptions& options = {});

// The gradient of the logits, from the upstream gradients either of logprobs, lse and entropy, each of which may be
// null, which means 0, or of log_softmax alone (CONTRACT.md 3a, 5). It is always exact: each element rounded once to
// f32.
struct GivenLogitsBackwardRequest {
  // Those of the forward pass.
  MatrixView logits;
  std::span<const float> temperatures;
  std::span<const std::int64_t> token_ids;
  std::int64_t ids_per_row = 1;
  std::int64_t ignore_index = -100;

  const float* d_logprobs = nullptr;  // [N, ids_per_row]
  const float* d_lse = nullptr;       // [N]
  const float* d_entropy = nullptr;   // [N]
  MatrixView d_log_softmax;           // [N, V], f32, or none

  float* dlogits = nullptr;             // [N, V]
  std::int64_t dlogits_row_stride = 0;  // in elements, at least V
};

// Of the options, the two arithmetics do not count.
Result<BackwardReport> backward_logits(const GivenLogitsBackwardRequest& request, const BackwardOptions& options = {});

}  // namespace isologit
