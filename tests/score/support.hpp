// What the tests of scoring share: kernels to run, heads made of given logits, and results compared bit by bit with
// the oracle's.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "isologit/score.hpp"

namespace isologit::testing_score {

// The names of the kernels that run on this machine, the reference last.
std::vector<std::string> runnable_kernels();

// A test that runs once for each of them. The reference settles everything by exact arithmetic, so it gets less to do.
class KernelTest : public testing::TestWithParam<std::string> {
 protected:
  bool is_reference() const { return GetParam() == "reference"; }
  ScoreOptions options(int threads = 1) const {
    ScoreOptions result;
    result.kernel = GetParam();
    result.threads = threads;
    return result;
  }
};
#define ISOLOGIT_FOR_EACH_KERNEL(suite)                                                                     \
  INSTANTIATE_TEST_SUITE_P(Kernel, suite, testing::ValuesIn(::isologit::testing_score::runnable_kernels()), \
                           [](const auto& tested) { return tested.param; })

// All outputs of some rows.
struct Outputs {
  std::vector<float> logprobs, lse, entropy;
  std::vector<std::int64_t> argmax, rank;
  ScoreReport report;

  explicit Outputs(std::int64_t rows);
};

// Scores with every output asked for; an error fails the test.
Outputs score_all(const Head& head, const MatrixView& hidden, std::span<const std::int64_t> ids,
                  std::span<const float> temperatures, const ScoreOptions& options);

// Row i of one and row j of the other have the same bits in every output.
testing::AssertionResult same_row(const Outputs& a, std::int64_t i, const Outputs& b, std::int64_t j);
testing::AssertionResult same_rows(const Outputs& a, const Outputs& b);

// Row i is what the oracle says of the last logits z and the id scored.
testing::AssertionResult row_is_right(const Outputs& outputs, std::int64_t i, std::span<const float> z,
                                      std::int64_t id);
// Each row i has the logits z and the id ids[i].
testing::AssertionResult rows_are_right(const Outputs& outputs, std::span<const float> z,
                                        std::span<const std::int64_t> ids);

// Same bits, or both NaN: internal logits may carry any NaN.
bool same_logit(float a, float b);

// A head of hidden size 1 whose logits, for the hidden state 1, are the weights themselves.
class GivenLogits {
 public:
  explicit GivenLogits(std::vector<float> z) : z_(std::move(z)) {}
  const std::vector<float>& z() const { return z_; }
  Head head() const;
  MatrixView hidden(std::int64_t rows) const { return {&one_, DType::f32, rows, 1, 0}; }

 private:
  std::vector<float> z_;
  float one_ = 1;
};

// Scores the row z once for each id; an error fails the test.
Outputs score_row(const GivenLogits& row, std::span<const std::int64_t> ids, const ScoreOptions& options);

MatrixView matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t cols);

// Whether to shrink: instrumented builds are slower by an order of magnitude.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool instrumented = true;
#else
inline constexpr bool instrumented = false;
#endif

}  // namespace isologit::testing_score
