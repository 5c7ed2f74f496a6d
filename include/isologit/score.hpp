// Scoring: log-probabilities of given tokens and the statistics of their distribution, streamed over tiles of the
// vocabulary. No [N, V] array is made and the weight is not copied.
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

// Where to write logits, rounded once to dtype (bf16, f16 or f32): those of ids [first_id, first_id + count), row i at
// element i * row_stride of data; what lies between the rows is left alone. The support does not change them.
struct LogitsOutput {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t row_stride = 0;
  std::int64_t first_id = 0;
  std::int64_t count = 0;
};

// What to compute for N rows. An output that is null is not computed; each one that is set receives N elements (K or k
// per row where said so) and must overlap neither an input nor another output. Definitions: CONTRACT.md 1 to 3.
struct ScoreRequest {
  MatrixView hidden;                        // [N, H]; N may be 0
  std::span<const std::int64_t> token_ids;  // N ids in [0, vocab_size) or ignore_index; may be empty unless logprobs,
                                            // raw_logprobs or rank is asked for. Scored from row i, unshifted
  std::span<const float> temperatures;      // empty (all 1), one for all rows, or N; each > 0 and finite
  std::int64_t ignore_index = -100;         // rows with this id are not computed: 0 in every output
  std::span<const std::uint8_t> row_mask;   // empty, or N: rows with 0 are treated as ignored ones
  std::span<const std::int64_t> row_list;   // instead of row_mask: ascending indices of the rows to compute; needs
                                            // use_row_list, so that an empty list means none
  bool use_row_list = false;
  Support support;

  float* logprobs = nullptr;       // ln p(token_ids[i]) over the support
  float* raw_logprobs = nullptr;   // the same over the whole vocabulary, without temperature
  float* lse = nullptr;            // ln of the sum of e^z over the support
  float* entropy = nullptr;        // in nats
  float* sum_p2 = nullptr;         // the sum of p^2
  float* log_kept = nullptr;       // ln of the share of the whole vocabulary's mass that the support keeps
  float* mean_logits = nullptr;    // the mean of z over the support
  std::int64_t* argmax = nullptr;  // the lowest id among the greatest logits of the support
  std::int64_t* rank = nullptr;    // the token's place in descending order, from 1

  // K given ids per row, [N, K]: their logprobs over the support. ignore_index gives 0.
  std::int64_t ids_per_row = 0;
  std::span<const std::int64_t> ids;
  float* ids_logprobs = nullptr;

  // The k first ids of the support in the order of CONTRACT.md 3, [N, k], and their logprobs; 1 <= k <= 1024.
  std::int64_t top_k = 0;
  std::int64_t* top_k_ids = nullptr;
  float* top_k_logprobs = nullptr;

  LogitsOutput logits;

  RowSummary* summaries = nullptr;  // for BackwardRequest
};

struct ScoreOptions {
  int threads = 0;  // 0: as many as there are processors to run on, at most the cgroup's quota
  // The processors to run on, the calling thread too while the call lasts, as the system numbers them. None: those that
  // the calling thread may run on. An engine may have bound that to one.
  std::optional<std::vector<int>> processors;
  std::string kernel;  // a name from kernels(), of that arithmetic; empty: ISOLOGIT_KERNEL if set, else the best here
  Arithmetic arithmetic = Arithmetic::exact;  // of the logits; what is made of them is exact in both
  // Called between tiles, on the calling thread, with the share of the first pass over the weight that is done, in
  // [0, 1], and with 1 during further ones, in the floating-point modes of the caller. Returning false cancels the
  // call; so does an exception, which the error then tells.
  std::function<bool(double)> progress;
  std::optional<Peers> peers;  // of a vocabulary that is split; none: the head has all of it
};

// What a call did. Counts tell how often the certified fast path had to hand over to wider arithmetic; they do not
// affect any bit of the results.
struct ScoreReport {
  std::string kernel;
  Arithmetic arithmetic = Arithmetic::exact;
  int threads = 0;
  int processors = 0;                // how many these could run on
  std::int64_t rows = 0;             // rows computed (not ignored)
  std::int64_t logit_fallbacks = 0;  // logits settled by exact accumulation
  std::int64_t undecided_rows = 0;   // rows that took part in a further round at a wider precision
  int rounds = 1;                    // passes over the weight, 1 unless there were undecided rows
};

// On an error nothing useful is in the outputs.
Result<ScoreReport> score(const Head& head, const ScoreRequest& request, const ScoreOptions& options = {});

}  // namespace isologit
