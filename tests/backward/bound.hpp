// What sums of `fast` gradients may be off by.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace isologit::test {

// Row r of `rows`: |actual - exact| <= part * sum over i of |dz(r, i)| * |vector i|, by Euclid's norm, where exact is
// the sum of dz(r, i) * vector i. Beside that, each element's own rounding to f32.
struct Bound {
  const std::vector<float>& actual;
  std::int64_t rows;
  std::int64_t terms;
  std::int64_t cols;
  std::int64_t row_stride;   // of dz
  std::int64_t term_stride;  // of dz
  const std::vector<double>& vectors;
  double part = 0x1p-16;  // CONTRACT.md 5
};

inline void expect_within(const Bound& bound, const std::vector<float>& dz, const std::string& what) {
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  for (std::int64_t r = 0; r < bound.rows; ++r) {
    double allowed = 0;
    std::vector<long double> exact(at(bound.cols), 0.0L);
    bool finite = true;
    for (std::int64_t i = 0; i < bound.terms; ++i) {
      const auto d = static_cast<double>(dz[at(r * bound.row_stride + i * bound.term_stride)]);
      double squares = 0;
      for (std::int64_t k = 0; k < bound.cols; ++k) {
        const double x = bound.vectors[at(i * bound.cols + k)];
        squares += x * x;
        exact[at(k)] += static_cast<long double>(d) * static_cast<long double>(x);
      }
      allowed += std::fabs(d) * std::sqrt(squares);
    }
    double off = 0;
    double rounding = 0;
    for (std::int64_t k = 0; k < bound.cols; ++k) {
      const auto sum = static_cast<double>(exact[at(k)]);
      const auto actual = static_cast<double>(bound.actual[at(r * bound.cols + k)]);
      if (!std::isfinite(sum)) {
        finite = false;
        EXPECT_EQ(std::isnan(sum), std::isnan(actual)) << what << " row " << r << " column " << k;
        continue;
      }
      if (std::isinf(actual)) {
        EXPECT_GE(std::fabs(sum), 0x1.fffffp127) << what << " row " << r << " column " << k;
        continue;
      }
      off = std::hypot(off, actual - sum);
      rounding = std::hypot(rounding, std::fabs(sum) * 0x1p-24 + 0x1p-150);
    }
    if (finite) {
      EXPECT_LE(off, bound.part * allowed + rounding) << what << " row " << r;
    }
  }
}

}  // namespace isologit::test
