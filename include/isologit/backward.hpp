// Gradients of logits, log-probabilities, lse and entropy with respect to hidden, weight, bias and the factors of a
// low-rank addition, by recomputing tiles of logits: no [N, V] array is made. Definitions: CONTRACT.md 5.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "isologit/arithmetic.hpp"
#include "isologit/head.hpp"
#include "isologit/peers.hpp"
#include "isologit/status.hpp"
#include "isologit/summary.hpp"
#include "isologit/support.hpp"

namespace isologit {

// Where a gradient goes: rows of adjacent elements, row r at element r * row_stride of data. With `accumulate` the sum
// is added to what the buffer holds (in f32, micro-batches add up without loss to a narrow type); without, it replaces
// that. data == nullptr: not computed, and its half of the work is skipped.
struct GradientOutput {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t row_stride = 0;  // at least the row's elements; not used for dbias
  bool accumulate = false;
};

// Either the upstream gradients of what `score` returns (d_logprobs, d_lse, d_entropy, d_mean_logits, each of which may
// be null, which means 0), or d_logits, those of the last logits (after temperature), with nothing beside it.
//
// A row is ignored when it has ids and all of them are ignore_index. An ignored row, or one whose upstream is all 0,
// contributes exactly 0 to everything and its dhidden is 0, whatever its logits. Any other row whose logits hold NaN
// gives NaN, and so does, unless the upstream is d_logits, one with a logit of +inf or none above -inf, and one with an
// upstream that is not finite; all of that over the support. dz of an id outside it is 0, and 0 times a weight or
// hidden state that is not finite is NaN in the sums as anywhere. An id outside the support has no logit to raise: only
// the others' fall.
struct BackwardRequest {
  MatrixView hidden;                        // [N, H]; N may be 0
  std::span<const std::int64_t> token_ids;  // [N, ids_per_row], or empty where d_logprobs is null
  std::int64_t ids_per_row = 1;             // ids that occur twice in a row add up; ignore_index contributes nothing
  std::int64_t ignore_index = -100;
  std::span<const float> temperatures;  // empty (all 1), one for all rows, or N; each > 0 and finite
  Support support;                      // that of the forward pass; the whole vocabulary beside d_logits

  const float* d_logprobs = nullptr;     // [N, ids_per_row]
  const float* d_lse = nullptr;          // [N]
  const float* d_entropy = nullptr;      // [N]
  MatrixView d_logits;                   // [N, vocab_size], f32, or none
  const float* d_mean_logits = nullptr;  // [N]

  // Empty, or N: what `score` wrote for the same rows, of the same operands and support. They save a pass over the
  // weight and change no bit. Where the logits are not those they were made of (somebody wrote into an operand
  // meanwhile), the call fails as soon as it sees that, or the gradients are of no use.
  std::span<const RowSummary> summaries;

  GradientOutput dhidden;  // [N, H]
  GradientOutput dweight;  // [V, H]: rows of the vocabulary only; later rows of a padded weight are not written. Not of
                           // a weight of f8, whose numbers are fixed
  GradientOutput dbias;    // [V]
  GradientOutput dlora_a;  // [r, H], of the head's low-rank addition
  GradientOutput dlora_b;  // [V, r], rows of the vocabulary only
};

struct BackwardOptions {
  Arithmetic arithmetic = Arithmetic::fast;  // of the gradients
  Arithmetic logits = Arithmetic::exact;     // of the logits, which are made again: what the forward pass used
  int threads = 0;                           // these two as in ScoreOptions
  std::optional<std::vector<int>> processors;
  std::string kernel;  // of the logits, as in ScoreOptions; with fast logits that of the forward pass
  // Called between tiles on the calling thread with the share done in [0, 1], as in ScoreOptions; returning false
  // cancels the call. What the outputs then hold is of no use, buffers that were accumulated into included.
  std::function<bool(double)> progress;
  // Of a vocabulary that is split, beside any upstream but d_logits. dhidden is the sum over all parties: the exact
  // one, or in fast arithmetic in the order of their ids, and so is dlora_a; all parties ask for these or none.
  // dweight, dbias and dlora_b are those of a party's own rows.
  std::optional<Peers> peers;
};

// What a call did. Counts do not affect any bit of the results.
struct BackwardReport {
  std::string kernel;
  Arithmetic arithmetic = Arithmetic::exact;  // of the sums; the reference kernel is always exact
  int threads = 0;
  int processors = 0;                     // how many these could run on
  std::int64_t rows = 0;                  // rows that contribute
  std::int64_t logit_fallbacks = 0;       // logits settled by exact accumulation
  std::int64_t derivative_fallbacks = 0;  // dz settled in multiple precision
  std::int64_t sum_fallbacks = 0;         // elements of gradients settled by exact accumulation
};

Result<BackwardReport> backward(const Head& head, const BackwardRequest& request, const BackwardOptions& options = {});

// The mean of the losses -logprobs[i] over the rows whose token_ids[i] is not ignore_index: the real mean rounded once
// to f32. token_ids has one id per logprob, or none: all rows count. NaN where no row does.
float mean_loss(std::span<const float> logprobs, std::span<const std::int64_t> token_ids = {},
                std::int64_t ignore_index = -100);

// The sum of the same losses, rounded once; 0 where no row counts. Its upstream is -g.
float sum_loss(std::span<const float> logprobs, std::span<const std::int64_t> token_ids = {},
               std::int64_t ignore_index = -100);

// The upstream gradient of each of the n logprobs under that mean, where g is the loss's own: -g / n, rounded once. n
// >= 1.
float mean_loss_upstream(float g, std::int64_t n);

}  // namespace isologit
