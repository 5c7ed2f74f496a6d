// The families of which digests are kept: data of every kind, element types and options drawn by a seed, so that each
// verb meets all of them. A family is made of the test data of the oracle alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backward/problem.hpp"
#include "isologit/support.hpp"
#include "oracle/cases.hpp"
#include "oracle/sample.hpp"

namespace isologit::golden {

// Ids per row, and what they own.
struct Lists {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int64_t> ids;
  void add(const std::vector<std::int64_t>& row);
  IdLists view() const { return {offsets, ids}; }
};

// A head and rows; what score, logits and sample share.
struct Rows {
  std::string name;
  oracle::DotData data;    // its weight may have rows past the vocabulary
  std::int64_t vocab = 0;  // of the head
  Transforms transforms;
  std::vector<float> temperatures;        // empty, one or one a row
  std::vector<std::int64_t> token_ids;    // one a row, some of them ignored
  std::vector<std::uint8_t> computed;     // 0 for rows that are left out; empty: none is
  std::vector<std::int64_t> listed_rows;  // the same rows as a list
  bool by_list = false;                   // which of the two the library is told
  std::vector<std::uint8_t> mask;         // empty, or a byte for each row and id: 1 in the support
  std::int64_t first_id = 0, last_id = -1;
  Lists kept, banned;  // say the same; without rows: not used

  std::int64_t rows() const { return data.shape.rows; }
  Head head() const;
  Support support() const;
  std::span<const std::uint8_t> mask_of(std::int64_t row) const;
  // Tells whether the row is computed: neither left out nor, where its id counts, ignored.
  bool is_computed(std::int64_t row, bool id_counts) const;
};

struct ScoreCase : Rows {
  std::int64_t per_row = 0;
  std::vector<std::int64_t> ids;  // per_row for each row, some of them ignored
  std::int64_t k = 0;             // of top-k
};

struct LogitsCase : Rows {
  DType dtype = DType::f32;
  std::int64_t begin = 0, count = 0;
};

// Temperatures may be 0.
struct SampleCase : Rows {
  std::vector<oracle::DrawKey> keys;  // one a row
  std::vector<oracle::Cuts> cuts;     // one a row
};

struct BackwardCase {
  std::string name;
  test::Problem problem;
};

std::vector<ScoreCase> score_cases();
std::vector<LogitsCase> logits_cases();
std::vector<SampleCase> sample_cases();
// Problems point into themselves: they must not be copied.
std::vector<BackwardCase> backward_cases();

}  // namespace isologit::golden
