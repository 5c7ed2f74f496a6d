// Tensors of any type and layout for the operators' tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "isologit/forward.hpp"
#include "oracle/cases.hpp"
#include "oracle/forward.hpp"

namespace isologit::test {

inline constexpr DType dtypes[] = {DType::bf16, DType::f16, DType::f32};

// The exact kernels that run here.
std::vector<std::string> exact_kernels();

inline forward::Options options_of(int threads, const std::string& kernel) {
  forward::Options options;
  options.threads = threads;
  options.kernel = kernel;
  return options;
}

enum class Family { normal, outliers, wide, tiny, cancellation, few_values, specials };
inline constexpr Family families[] = {Family::normal,       Family::outliers,   Family::wide,    Family::tiny,
                                      Family::cancellation, Family::few_values, Family::specials};
const char* name_of(Family family);
// A number of the family, rounded to the type.
double draw(oracle::Random& random, Family family, DType dtype);

// [tokens, heads, dim] with gaps between heads and tokens, off alignment.
class Tensor {
 public:
  Tensor(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim, std::int64_t gap = 0);
  static Tensor random(oracle::Random& random, Family family, DType dtype, std::int64_t tokens, std::int64_t heads,
                       std::int64_t dim, std::int64_t gap = 0);

  forward::TensorView view() const;
  forward::TensorOutput output();
  double at(std::int64_t token, std::int64_t head, std::int64_t d) const;
  void set(std::int64_t token, std::int64_t head, std::int64_t d, double value);
  std::vector<double> row(std::int64_t token, std::int64_t head) const;

  // The gaps are as they were made.
  bool gaps_untouched() const;
  bool operator==(const Tensor& other) const { return bytes_ == other.bytes_; }

 private:
  std::size_t place(std::int64_t token, std::int64_t head, std::int64_t d) const;

  DType dtype_;
  std::int64_t tokens_, heads_, dim_, head_stride_, token_stride_;
  std::vector<std::uint8_t> bytes_;
};

// A vector of elements.
struct Vector {
  DType dtype;
  std::vector<std::uint8_t> bytes;
  std::vector<double> values;
  VectorView view() const { return {bytes.data(), dtype, static_cast<std::int64_t>(values.size())}; }
};
Vector random_vector(oracle::Random& random, Family family, DType dtype, std::int64_t size);

oracle::Format format_of(DType dtype);

// The same bits, every NaN being the one NaN.
testing::AssertionResult same(double found, double right);

}  // namespace isologit::test
