// Logits of the CUDA kernels, compiled for the host, against the oracle: bits.
#include <gtest/gtest.h>

#include "problem.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;
using oracle::DotShape;

void expect_right(const DotShape& shape, DotFamily family, std::uint64_t seed, const Layout& layout = {}) {
  const auto data = oracle::make_dot(shape, family, seed);
  HostLauncher launcher;
  EXPECT_EQ(count_different(logits_by(launcher, data, layout), logits_of_oracle(data)), 0)
      << describe(shape) << ' ' << oracle::name_of(family) << " pad " << layout.pad << " offset " << layout.offset;
}

// Rows that choose each kernel, and the edges between them.
TEST(CudaLogits, EveryFamilyAndNumberOfRows) {
  for (const auto family : oracle::dot_families) {
    for (const std::int64_t rows : {1, 8, 9, 16, 17, 32, 33, 65}) expect_right({rows, 37, 328}, family, 1);
  }
}

TEST(CudaLogits, EveryPairOfTypes) {
  for (const auto hidden : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto weight : {DType::bf16, DType::f16, DType::f32}) {
      for (const auto family : oracle::dot_families) {
        for (const std::int64_t rows : {3, 12, 24, 34}) {
          expect_right({rows, 19, 200, hidden, weight, DType::f32}, family, 2);
        }
      }
    }
  }
}

TEST(CudaLogits, EveryTypeOfBias) {
  for (const auto bias : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto family : oracle::dot_families) expect_right({5, 40, 96, DType::bf16, DType::bf16, bias}, family, 3);
  }
}

// Depths that end within a chunk, a step, a stage; and the least there is.
TEST(CudaLogits, EveryDepth) {
  for (const std::int64_t depth : {1, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 72, 127, 257, 520}) {
    for (const std::int64_t rows : {2, 40}) {
      expect_right({rows, 21, depth}, DotFamily::normal, 4);
      expect_right({rows, 21, depth}, DotFamily::wide_exponents, 4);
    }
  }
}

TEST(CudaLogits, EveryVocabulary) {
  for (const std::int64_t vocab : {1, 15, 16, 17, 127, 128, 129, 1025}) {
    for (const std::int64_t rows : {1, 12, 20, 40}) expect_right({rows, vocab, 64}, DotFamily::outliers, 5);
  }
}

// Strides, and rows that 16-byte loads cannot reach; between the rows lies NaN.
TEST(CudaLogits, EveryLayout) {
  for (const auto type : {DType::bf16, DType::f16, DType::f32}) {
    for (const Layout& layout : {Layout{8, 0}, Layout{8, 8}, Layout{3, 0}, Layout{0, 1}, Layout{8, 2}, Layout{5, 7}}) {
      for (const std::int64_t rows : {2, 34}) {
        expect_right({rows, 18, 136, type, type}, DotFamily::normal, 6, layout);
        expect_right({rows, 18, 136, type, type}, DotFamily::near_tie, 6, layout);
      }
    }
  }
}

TEST(CudaLogits, MoreRowsThanAreMadeReadyAtOnce) { expect_right({kRowsAtOnce + 3, 5, 40}, DotFamily::near_tie, 7); }

TEST(CudaLogits, DepthOfAModel) {
  for (const auto family : {DotFamily::normal, DotFamily::outliers, DotFamily::cancellation, DotFamily::near_tie}) {
    for (const std::int64_t rows : {2, 34}) expect_right({rows, 64, 4096}, family, 8);
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
