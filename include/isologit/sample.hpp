// Sampling: one token for each row, drawn from the distribution that isologit::score describes, streamed over tiles of
// the vocabulary. A draw is a function of its row's logits, cuts, seed, sequence id and position alone (CONTRACT.md 4).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "isologit/score.hpp"

namespace isologit {

// What to draw for N rows. Each span below holds one value for all rows or N. An output pointer that is null is not
// computed; each one that is set receives N elements and must overlap neither an input nor another output.
struct SampleRequest {
  MatrixView hidden;                            // [N, H]; N may be 0
  std::span<const float> temperatures;          // or empty (all 1); finite and not below 0. 0 takes the greatest logit
  std::span<const std::uint64_t> seeds;         // the generator's key
  std::span<const std::uint64_t> sequence_ids;  // the generator's counter, with the position and the token's id
  std::span<const std::uint32_t> positions;
  // The cuts, applied in this order: min-p, top-k, top-p. Rows at temperature 0 are not cut.
  std::span<const float> min_p;         // or empty; in [0, 1], 0 cuts nothing
  std::span<const std::int64_t> top_k;  // or empty; 0 cuts nothing
  std::span<const float> top_p;         // or empty; in (0, 1], 1 cuts nothing
  Support support;                      // what is drawn from; the cuts come after it
  // The rows to draw for, as in ScoreRequest; the others are not computed: 0 in every output.
  std::span<const std::uint8_t> row_mask;
  std::span<const std::int64_t> row_list;
  bool use_row_list = false;

  std::int64_t* ids = nullptr;    // -1 where the support has no logit above -inf
  float* logprobs = nullptr;      // of the id, as score gives it: over the support, at temperature 1 where T = 0
  float* cut_logprobs = nullptr;  // of the id, over what the cuts left
  float* log_kept_cut = nullptr;  // ln of the share of the support's mass that the cuts left
};

// What a call did; no count affects any bit of the results.
struct SampleReport {
  std::string kernel;
  Arithmetic arithmetic = Arithmetic::exact;
  int threads = 0;
  int processors = 0;                // how many these could run on
  std::int64_t rows = 0;             // drawn for
  std::int64_t logit_fallbacks = 0;  // logits settled by exact accumulation
  int rounds = 1;                    // passes over the weight
  std::int64_t further_rows = 0;     // rows that took part in a pass after the first
  std::int64_t undecided_rows = 0;   // of these, rows that needed wider arithmetic than f64
  std::int64_t second_words = 0;     // tokens for which the first random word did not settle the draw
  std::int64_t exact_draws = 0;      // rows whose draw needed wider arithmetic than f64
};

Result<SampleReport> sample(const Head& head, const SampleRequest& request, const ScoreOptions& options = {});

}  // namespace isologit
