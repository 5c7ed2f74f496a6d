// Test data, the same on every machine: operands of dot products and rows of logits, by families that each provoke
// one kind of mistake. Only integer arithmetic, exact scaling and f32 rounding are used, no libm distribution.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "isologit/view.hpp"

namespace isologit::oracle {

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }  // the slight bias does not matter here
  std::int64_t between(std::int64_t lowest, std::int64_t highest);     // both included
  double uniform();                                                    // [0, 1), a multiple of 2^-53
  double normal();                                                     // twelve uniforms less 6: mean 0, variance 1
  double sign() { return (next() & 1U) != 0 ? 1.0 : -1.0; }

 private:
  std::uint64_t state_;
};

enum class DotFamily {
  normal,
  outliers,  // normal with channels of 40 and 1000 times the size
  constant,
  cancellation,    // large terms in pairs that cancel but for an ulp
  near_tie,        // sums on a midpoint of two f32 numbers or 2^-60 of their size beside it; cols >= 5
  subnormal,       // subnormal elements, and f32 sums that are subnormal
  wide_exponents,  // exponents over 2^±100 (f16: all it has)
  signed_zeros,
  specials,  // some inf and NaN
  zero_rows,
  overflow_limit,  // near_tie at 2^128 - 2^103, where f32 rounds to inf (f16 by f16 cannot: near_tie); cols >= 5
};
inline constexpr DotFamily dot_families[] = {
    DotFamily::normal,   DotFamily::outliers,  DotFamily::constant,       DotFamily::cancellation,
    DotFamily::near_tie, DotFamily::subnormal, DotFamily::wide_exponents, DotFamily::signed_zeros,
    DotFamily::specials, DotFamily::zero_rows, DotFamily::overflow_limit,
};
std::string_view name_of(DotFamily family);

struct DotShape {
  std::int64_t rows = 1;
  std::int64_t vocab = 1;
  std::int64_t cols = 1;
  DType hidden = DType::bf16;
  DType weight = DType::bf16;
  std::optional<DType> bias;  // near_tie and overflow_limit make a bias of zeros, so as to stay where they are
};

// hidden [rows, cols], weight [vocab, cols], bias [vocab] as raw elements, and decoded.
struct DotData {
  DotShape shape;
  std::vector<std::uint8_t> hidden, weight, bias;
  std::vector<double> hidden_values, weight_values, bias_values;

  MatrixView hidden_view() const;
  MatrixView weight_view() const;
  VectorView bias_view() const;
  const double* hidden_row(std::int64_t n) const { return &hidden_values[static_cast<std::size_t>(n * shape.cols)]; }
  const double* weight_row(std::int64_t v) const { return &weight_values[static_cast<std::size_t>(v * shape.cols)]; }
  double bias_of(std::int64_t v) const { return bias_values.empty() ? 0.0 : bias_values[static_cast<std::size_t>(v)]; }
};
DotData make_dot(const DotShape& shape, DotFamily family, std::uint64_t seed);

enum class RowFamily {
  normal,        // sigma 1 to 30
  near_certain,  // p = 1 - 10^-k, k = 1 + seed mod 30
  two_level,
  all_equal,
  top_ties,
  one_finite,
  all_minus_inf,
  plus_inf,
  nan,
  midpoint_gap,  // z_t - top on a midpoint of two f32 numbers, gaps up to 2^128; seeds 0 to 10 are all the kinds
  subnormal,
  masked_like,  // entries of -1e9, -1e30 and -FLT_MAX, as added masks leave them
};
inline constexpr RowFamily row_families[] = {
    RowFamily::normal,   RowFamily::near_certain, RowFamily::two_level,     RowFamily::all_equal,
    RowFamily::top_ties, RowFamily::one_finite,   RowFamily::all_minus_inf, RowFamily::plus_inf,
    RowFamily::nan,      RowFamily::midpoint_gap, RowFamily::subnormal,     RowFamily::masked_like,
};
std::string_view name_of(RowFamily family);
// vocab >= 1. In midpoint_gap the pair is the first and the last id.
std::vector<float> make_row(RowFamily family, std::int64_t vocab, std::uint64_t seed);

// Whether top - z lies exactly between two adjacent f32 numbers.
bool is_midpoint_gap(float top, float z);

}  // namespace isologit::oracle
