// Heads with a low-rank addition to the weight, and their logits by the oracle.
#pragma once

#include <cstdint>
#include <vector>

#include "isologit/head.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::testing_score::low_rank {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;

inline std::size_t element_index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Elements of a type, raw and decoded.
struct Factor {
  Factor(std::int64_t rows, std::int64_t cols, DType dtype)
      : shape{nullptr, dtype, rows, cols, cols},
        bytes(element_index(rows * cols) * dtype_size(dtype)),
        values(element_index(rows * cols)) {}
  void set(std::int64_t row, std::int64_t col, double x) {
    oracle::encode(shape.dtype, bytes.data(), element_index(row * shape.cols + col), static_cast<float>(x));
    values[element_index(row * shape.cols + col)] =
        oracle::decode(shape.dtype, bytes.data(), element_index(row * shape.cols + col));
  }
  MatrixView view() const {
    MatrixView result = shape;
    result.data = bytes.data();
    return result;
  }

  MatrixView shape;
  std::vector<std::uint8_t> bytes;
  std::vector<double> values;
};

struct Problem {
  DotData data;
  Factor a;  // [r, H]
  Factor b;  // [V, r]
  double scale;

  Lora lora() const { return {a.view(), b.view(), scale}; }
  std::int64_t rank() const { return a.shape.rows; }

  std::vector<oracle::Extended> factors(std::int64_t n) const {
    return oracle::low_rank_factors(data.hidden_row(n), a.values.data(), element_index(rank()),
                                    element_index(data.shape.cols), scale);
  }
  float expected(std::int64_t n, std::int64_t v, const std::vector<oracle::Extended>& factors) const {
    const oracle::Terms terms{data.hidden_row(n), data.weight_row(v), element_index(data.shape.cols)};
    return oracle::low_rank_logit(terms, data.bias_of(v), factors, b.values.data() + v * rank());
  }
};

// a and b are those of DotData too, so each family visits each operand.
inline Problem make_problem(const DotShape& shape, std::int64_t rank, DType a, DType b, DotFamily family,
                            DotFamily factors, double scale, std::uint64_t seed) {
  Problem problem{make_dot(shape, family, seed), Factor(rank, shape.cols, a), Factor(shape.vocab, rank, b), scale};
  if (rank == 0) return problem;
  const DotData of_a = make_dot({rank, 1, shape.cols, a, a, {}}, factors, seed + 1000);
  const DotData of_b = make_dot({shape.vocab, 1, rank, b, b, {}}, factors, seed + 2000);
  problem.a.bytes = of_a.hidden;
  problem.a.values = of_a.hidden_values;
  problem.b.bytes = of_b.hidden;
  problem.b.values = of_b.hidden_values;
  return problem;
}

}  // namespace isologit::testing_score::low_rank
