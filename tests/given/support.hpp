// Rows of given logits in any type and layout, a call that asks for everything, and the oracle's answer.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "isologit/given_logits.hpp"

namespace isologit::testing_given {

struct Given {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  DType dtype = DType::f32;
  std::int64_t row_stride = 0;  // may be negative
  std::vector<std::uint8_t> bytes;
  std::int64_t first_byte = 0;          // of row 0
  std::vector<float> temperatures;      // none, one or N
  std::vector<std::int64_t> token_ids;  // [N, ids_per_row], or none
  std::int64_t ids_per_row = 1;

  // What the elements stand for, before temperature, [N, V].
  std::vector<float> values;

  MatrixView view() const;
  // Row i after temperature, by the oracle.
  std::vector<float> last(std::int64_t i) const;
  // Random ids, ids_per_row of them a row, the odd one ignored.
  void draw_ids(std::int64_t per_row, std::uint64_t seed);
};

// Rows of equal length, rounded to dtype; elements lie `gap` elements apart from row to row and `skew` bytes off
// alignment, and backwards in memory where asked.
struct Layout {
  DType dtype = DType::f32;
  std::int64_t gap = 0;
  std::int64_t skew = 0;
  bool backwards = false;
};
Given make_given(const std::vector<std::vector<float>>& rows, const Layout& layout = {});

struct Results {
  std::vector<float> logprobs, lse, entropy;
  std::vector<float> log_softmax;  // [N, V]
  ScoreReport report;
  std::vector<std::uint32_t> bits() const;
};

// Asks for everything at once. log_softmax is written to rows with a gap, which is seen to be left alone. An error
// fails the test.
Results score_given(const Given& given, const ScoreOptions& options);

// By the oracle.
Results expected(const Given& given);

void expect_same(const Results& found, const Results& right, const std::string& what);

}  // namespace isologit::testing_given
