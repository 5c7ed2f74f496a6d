// How the sums of attention end. Of a row with n keys, with weights e^s in units of 2^scale that sum up to W, no less
// than 0.7. u = 2^-53:
// - A score is a sum of at most kMostHead products and the product with the scale: within E = (dim + 34) u M of itself,
//   M = scale |q| max|k|, and with a softcap within 2^-48 of the cap (capped_near), whose slope is at most 1.
// - A weight is within E + 2^-50 of itself, or below 2^-1000 and left out.
// - Sums are chains of at most n / 64 + 300 additions: 64 keys by themselves, then all of these, of lanes and splits.
// So with delta the sum of these the numerator is within delta W max|v| of itself and the denominator within delta W,
// and their quotient within 2 delta max|v|, the greatest |v| being that of the same element.
// Rows that are not usual (NaN, infinities, scores past kMostScore) are open.
#pragma once

#include "cuda/attention_request.cuh"
#include "cuda/exponential.cuh"

namespace isologit::detail::cuda {

inline constexpr double kMostScore = 0x1p19;
inline constexpr int kNoScale = -(1 << 30);  // of no weights

// 2^(from - to) of units from <= to, or 0 where that is next to nothing.
ISOLOGIT_DEVICE double rescaling(int from, int to) { return from - to < -1000 ? 0.0 : power_of_two(from - to); }

// cap tanh(s / cap). Of t = e^(-2 x), x = |s| / cap up to 40, tanh x is (1 - t) / (1 + t), whose slope by t is at most
// 2, but t times it at most 1/2: t within 2^-50 + 2 x u of itself, x t < 0.2, moves it by less than 2^-50, and three
// roundings by less than 2^-51. Past 40 it is within 2^-114 of 1.
ISOLOGIT_DEVICE double capped_near(double s, double cap) {
  const double x = fabs(s) / cap;
  const double t = exponential_near(x < 40.0 ? -2.0 * x : -80.0);
  const double capped = cap * ((1.0 - t) / (1.0 + t));
  return s < 0 ? -capped : capped;
}

// Whether a sink is no more than one more weight.
ISOLOGIT_DEVICE bool is_usual_sink(float sink) {
  return fabsf(sink) < static_cast<float>(kMostScore) || sink == minus_infinity();
}

// The greatest |element|, of which these are the bits without the sign; infinite or NaN if there is one that is. Bits
// of numbers with no sign are ordered as they are, NaN above all.
ISOLOGIT_DEVICE double size_of(std::uint32_t bits, int type) {
  return static_cast<double>(type == kBf16 ? Bf16::value(bits) : F16::value(bits));
}
ISOLOGIT_DEVICE std::uint32_t greatest_of(std::uint32_t a, std::uint32_t b) { return a > b ? a : b; }

// Of a row, once all of its keys are summed.
struct RowEnd {
  double inverse;  // of the sum of weights, or 0 where there are none
  double delta;    // infinite where the row is not usual
};
ISOLOGIT_DEVICE RowEnd row_end(const AttentionRequest& p, double weight, double q_length, std::uint32_t greatest_key,
                               const Seen& seen, float sink) {
  const auto keys = static_cast<double>(seen.end - seen.begin);
  const auto cap = static_cast<double>(p.softcap);
  // Of an f32 sum of kMostHead squares, each of which loses 2^-24 of itself and the sum, or 2^-150.
  const double key_length = sqrt(static_cast<double>(bit_cast<float>(greatest_key)) + kMostHead * 0x1p-149);
  const double most = 1.01 * static_cast<double>(p.scale) * q_length * key_length;
  const bool is_usual = (cap != 0 ? cap : most) < kMostScore && most < 0x1p500 && is_usual_sink(sink);
  const double of_score = (p.dim + 34) * 0x1.02p-53 * most + cap * 0x1p-48;
  RowEnd end;
  end.inverse = weight == 0 ? 0.0 : 1.0 / weight;
  end.delta = !is_usual   ? bit_cast<double>(std::uint64_t{0x7FF0000000000000U})
              : keys == 0 ? 0.0
                          : of_score + 0x1p-50 + (keys * 0x1p-6 + 300) * 0x1.02p-53 + keys * 0x1p-900;
  return end;
}

// The result, or the mark of an open one.
ISOLOGIT_DEVICE float attended(double sum, const RowEnd& row, std::uint32_t greatest_value, int type) {
  const double value = sum * row.inverse;
  const double error = 2.01 * row.delta * size_of(greatest_value, type) + fabs(value) * 0x1p-51;
  if (!(error < 0x1p200)) return open_mark();
  const Ends ends = ends_of(value, error, type);
  return ends.agree() ? ends.low : open_mark();
}

// What a split of the keys leaves of a tile of rows.
template <int ROWS, int DIM>
struct Partial {
  double sums[ROWS][DIM];
  double weight[ROWS];
  double q_length[ROWS];
  int scale[ROWS];
  std::uint32_t greatest_value[DIM];
  std::uint32_t greatest_key;
};

}  // namespace isologit::detail::cuda
