// Results of logits that are given: what an engine or a model has made and cut, scaled and penalised as it likes.
// Definitions: CONTRACT.md 3a.
#pragma once

#include <cstdint>
#include <span>

#include "isologit/backward.hpp"
#include "isologit/head.hpp"
#include "isologit/sample.hpp"
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

// What to draw for N rows of logits, one token each (CONTRACT.md 4). The members are those of SampleRequest; a support
// is made of logits of -inf.
struct GivenLogitsSampleRequest {
  MatrixView logits;                     // [N, V], V >= 1; N may be 0
  std::span<const float> temperatures;   // or empty (all 1); finite and not below 0. 0 takes the greatest logit
  std::span<const std::uint64_t> seeds;  // one for all rows or N, as those below
  std::span<const std::uint64_t> sequence_ids;
  std::span<const std::uint32_t> positions;
  std::span<const float> min_p;         // or empty; in [0, 1], 0 cuts nothing
  std::span<const std::int64_t> top_k;  // or empty; 0 cuts nothing
  std::span<const float> top_p;         // or empty; in (0, 1], 1 cuts nothing

  std::int64_t* ids = nullptr;       // [N]; -1 where no logit is above -inf
  float* logprobs = nullptr;         // [N], of the id, over all logits, at temperature 1 where T = 0
  float* cut_logprobs = nullptr;     // [N], of the id, over what the cuts left
  float* log_kept_cut = nullptr;     // [N], ln of the share of the mass that the cuts left
  std::uint8_t* cut_mask = nullptr;  // [N, V], 1 for what the cuts left, 0 for the rest and for logits of -inf
};

// Of the options, `arithmetic` does not count.
Result<SampleReport> sample_logits(const GivenLogitsSampleRequest& request, const ScoreOptions& options = {});

// score and sample of a head whose logits the caller has made, on a device say: `hidden` of the request is [N, W], the
// logits of the head's ids before any transform, W >= vocab_size and at least 1. The head says its vocab_size and its
// transforms, and has no weight, bias or addition. All else is as of score and sample, with peers as well; but there
// are no outputs of logits, and of the options `arithmetic` does not count.
Result<ScoreReport> score_given(const Head& head, const ScoreRequest& request, const ScoreOptions& options = {});
Result<SampleReport> sample_given(const Head& head, const SampleRequest& request, const ScoreOptions& options = {});

}  // namespace isologit
