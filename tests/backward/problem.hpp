// A small gradient problem that owns its data, the call under test and the oracle's answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "isologit/backward.hpp"
#include "oracle/cases.hpp"
#include "oracle/gradient.hpp"

namespace isologit::test {

struct Gradients {
  std::vector<float> dhidden;  // [N, H]
  std::vector<float> dweight;  // [V, H]
  std::vector<float> dbias;    // [V]
  BackwardReport report;
};

struct Problem {
  oracle::DotData data;
  std::vector<float> z0;  // empty: the exact logits; else those of the forward pass, N times V
  Transforms transforms;
  std::vector<float> temperatures;  // empty, one or N
  std::int64_t ids_per_row = 1;
  std::vector<std::int64_t> ids;       // empty, or N times ids_per_row
  std::vector<float> d_logprobs;       // empty, or as many
  std::vector<float> d_lse;            // empty, or N
  std::vector<float> d_entropy;        // empty, or N
  std::vector<float> d_mean_logits;    // empty, or N
  std::vector<float> d_logits;         // empty, or N times V
  std::vector<std::uint8_t> mask;      // empty, or N times V: 1 where an id is in the row's support
  Support support;                     // says the same; points into `lists`
  std::vector<std::int64_t> lists[2];  // offsets, ids
  std::vector<RowSummary> summaries;   // empty, or N
  DType output = DType::f32;
  bool accumulate = false;
  // What the buffers hold beforehand, decoded; used where accumulate is set.
  std::vector<float> old_dhidden, old_dweight, old_dbias;

  std::int64_t rows() const { return data.shape.rows; }
  std::int64_t vocab() const { return data.shape.vocab; }
  std::int64_t cols() const { return data.shape.cols; }
  float temperature(std::int64_t row) const;
  Head head() const;
  BackwardRequest request() const;  // without outputs
  void fill_old(std::uint64_t seed);
  // Takes an N times V mask and says it to the library by lists of kept or of banned ids.
  void set_mask(std::vector<std::uint8_t> new_mask, bool banned);
  // The same support as bytes, of all rows or of each.
  void set_mask_bytes(std::vector<std::uint8_t> new_mask, bool shared);
};

// Random upstreams of every kind; ids with duplicates and the odd ignored one.
Problem make_problem(const oracle::DotShape& shape, oracle::DotFamily family, std::uint64_t seed,
                     std::int64_t ids_per_row = 1);

// A third of the ids of each row [N, V].
std::vector<std::uint8_t> random_mask(const Problem& problem, std::uint64_t seed);

// A mask [6, 12] for rows whose id is 3: nothing; that id alone; one that is not; two such; all but that id; all.
std::vector<std::uint8_t> small_supports();

Gradients run(const Problem& problem, const BackwardOptions& options);

// By the oracle. dz [N, V] too, for bounds.
struct Expected {
  Gradients gradients;
  std::vector<float> dz;
  std::vector<std::uint8_t> skipped;  // a byte a row
};
Expected expect(const Problem& problem);

void expect_same_bits(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what);
void expect_same_bits(const Gradients& actual, const Gradients& expected, const std::string& what);

// `exact` gradients of every kernel against the oracle's.
void expect_exact(const Problem& problem, const std::string& what);

// With or without the reference, which takes seconds where others take milliseconds.
std::vector<std::string> runnable_kernels(bool reference = true);

}  // namespace isologit::test
