// The loops of the forward pass that are worth vector instructions, one table per instruction set. They compute in f64
// and bound their errors; `round` then tells which results are proven, and the operator settles the others. So the
// tables are interchangeable: no freedom of theirs can be seen in a result.
//
// Arrays hold rows of f32 (every activation type widens to it exactly) or f64 and go on, to a multiple of kLaneGroup,
// with whatever numbers; of inputs of `dot` and `scores` those are 0.
#pragma once

#include <cstdint>

#include "isologit/dtype.hpp"

namespace isologit::detail::kernels {

// (x - shift) factor w + b.
struct NormRow {
  double shift = 0;
  double shift_error = 0;
  double factor = 0;
  double factor_error = 0;  // relative
  bool one_plus_weight = false;
};

enum class GateFunction { silu, gelu_tanh };

struct ForwardLoops {
  // The sum of a[i] b[i], within (count / 16 + 6) 2^-53 of the sum of |a[i] b[i]|.
  double (*dot)(const float* a, const float* b, std::int64_t count);

  // to[i] = values[i] rounded once to dtype, as f32, for what lies within errors[i] of values[i]. Writes to `open` the
  // indices of those it cannot prove, NaN and infinite ones among them, and returns how many.
  std::int64_t (*round)(const double* values, const double* errors, std::int64_t count, DType dtype, float* to,
                        std::int32_t* open);

  // to[i] = x[i] + factor a[i] rounded once to dtype; `open` as of round.
  std::int64_t (*add)(const float* x, const float* a, double factor, std::int64_t count, DType dtype, float* to,
                      std::int32_t* open);

  // weight and bias may be null: 1 and 0.
  void (*norm)(const NormRow& row, const float* x, const float* weight, const float* bias, std::int64_t count,
               double* values, double* errors);

  // Of rows of bf16 the results as elements of bf16, computed in f32; of those listed in `open`, whose number is
  // returned, nothing is said (kernels/bf16_rows_impl.hpp). x factor w, or x factor (1 + w); the factor before it was
  // rounded was within 2^-30 of itself, and is from 2^-60 to 2^60. weight may be null: 1.
  std::int64_t (*norm_bf16)(float factor, bool one_plus_weight, const float* x, const float* weight, std::int64_t count,
                            void* to, std::int32_t* open);
  // x + a.
  std::int64_t (*add_bf16)(const float* x, const float* a, std::int64_t count, void* to, std::int32_t* open);
  // g u / (1 + e^-g). up may be null: 1.
  std::int64_t (*silu_bf16)(const float* gate, const float* up, std::int64_t count, void* to, std::int32_t* open);
  // As rotate, of cosines and sines that were within 2^-50 before they were rounded. `open` holds for both.
  std::int64_t (*rotate_bf16)(const float* a, const float* b, const float* cosine, const float* sine, float factor,
                              std::int64_t count, void* first, void* second, std::int32_t* open);

  // The cosines and sines of position * frequencies[i], each within 2^-50 (kernels/angle.hpp).
  void (*turns)(std::int64_t position, const float* frequencies, std::int64_t count, double* cosine, double* sine);

  // first[i] = factor (a[i] cosine[i] - b[i] sine[i]), second[i] = factor (b[i] cosine[i] + a[i] sine[i]); cosine and
  // sine are within 2^-50. errors holds for both.
  void (*rotate)(const float* a, const float* b, const double* cosine, const double* sine, double factor,
                 std::int64_t count, double* first, double* second, double* errors);

  // values[i] = (up[i] + shift) g / (1 + e^-x) of g = gate[i]; x = factor g for silu, factor (g + cubic g^3) for
  // gelu_tanh, where `factor` is within 2^-53 of itself. up may be null, which means 1, without shift.
  void (*gate)(GateFunction function, double factor, double cubic, const float* gate, const float* up, double shift,
               std::int64_t count, double* values, double* errors);

  // to[i] = from[i] for `count` elements, a multiple of kLaneGroup. Returns the sum of squares, as of dot.
  double (*widen)(const float* from, std::int64_t count, double* to);

  // s[r * stride + j] = a_r b_j for `rows` rows a and `count` rows b of `dim` elements, a multiple of kLaneGroup, that
  // hold numbers of f32. Within (dim / 2 + 8) 2^-53 of the sum of magnitudes; each sum is made in one order, whichever
  // others are made beside it.
  void (*products)(const double* a, std::int64_t rows, const double* b, std::int64_t count, std::int64_t dim, double* s,
                   std::int64_t stride);
  // s[j] = scale s[j], then cap tanh(s / cap) where cap is not 0, within cap 2^-46. Returns the greatest.
  double (*scores)(double* s, std::int64_t count, double scale, double cap);
  // s[j] = e^s[j] in units of 2^scale, and their sum. |s[j]| <= 2^20 and s[j] <= (scale + 1000) ln 2. Each is within
  // 2^-50 of itself, and 2^-990.
  double (*weigh)(double* s, std::int64_t count, std::int64_t scale);
  // sums_r[d] += the sum over j of p[r * stride + j] v_j[d] for `rows` rows of sums, in chains of `count` terms, in
  // their order; dim is a multiple of kLaneGroup, and sums_r and v_j are `dim` apart.
  void (*accumulate)(const double* p, std::int64_t rows, std::int64_t stride, const double* values, std::int64_t dim,
                     std::int64_t count, double* sums);
};

}  // namespace isologit::detail::kernels
