// The folds' loops over a tile's logits that are worth vector instructions; one table of them per instruction set. What
// they return is either exact (scan, count_above, softcap) or comes with a proven bound (sums), so the tables are
// interchangeable.
#pragma once

#include <cstdint>

#include "kernels/draw.hpp"

namespace isologit::detail::kernels {

// Logits are handed over in groups of this many; the caller pads the last group with -inf.
constexpr std::int64_t kLaneGroup = 16;
constexpr std::int64_t padded(std::int64_t count) { return (count + kLaneGroup - 1) / kLaneGroup * kLaneGroup; }
// The most logits of a tile: what arrays on the stack hold, and the bound of `sums` rests on it.
constexpr std::int64_t kMostTile = 128;

struct Scan {
  float greatest;  // of the logits that are not NaN; -inf when there is none
  bool has_nan;
  std::int64_t above_minus_inf;  // how many are above -inf (NaN not counted)
};

// Sums over logits z, in units of 2^scale: mass = sum of e^z, moment = sum of e^z (top - z); squares = sum of e^2z in
// units of 2^(2 scale). They have a relative error of at most 2^-47, plus at most 2^-990 per logit absolutely. z = -inf
// contributes nothing.
struct Sums {
  double mass;
  double moment;
  double squares;
};

// A logit that a draw may pick: its place in the tile and the first random word of its id.
struct Hit {
  std::int32_t index;
  std::uint32_t word;
};

// ln of the sum of e^z over a row, less the greatest logit: in [low, high], low > 0. Where the real number is below
// 2^-150, both may be any numbers in (0, 2^-150): nothing that is rounded to f32 depends on them.
struct Excess {
  double low;
  double high;
};

// A row's share of the gradient of its log_softmax: p = e^z unit, in units of 2^scale as FoldLoops::sums has them, and
// dz = (g + p b) factor.
struct SoftmaxGradient {
  int scale;
  double unit;
  double unit_error;  // relative
  double b;
  double b_error;
  double factor;  // rounded once
};

struct FoldLoops {
  // count is a multiple of kLaneGroup.
  Scan (*scan)(const float* logits, std::int64_t count);
  // Null when the table has no f64 sums. |top| <= 2^20 and top is at least every logit; scale is the integer nearest
  // top / ln 2, give or take one.
  Sums (*sums)(const float* logits, std::int64_t count, float top, int scale);
  // Its mass alone, within 2^-48; count is at most kMostTile. Null where sums is.
  double (*mass)(const float* logits, std::int64_t count, int scale);
  // How many are > threshold, or >= threshold; any count. NaN compares false.
  std::int64_t (*count_above)(const float* logits, std::int64_t count, float threshold, bool or_equal);
  // Whether any logit is not below threshold: greater, equal or NaN. Any count.
  bool (*any_not_below)(const float* logits, std::int64_t count, float threshold);
  // Replaces each logit z by cap * tanh(z / cap), rounded once; count is a multiple of kLaneGroup.
  void (*softcap)(float* logits, std::int64_t count, float cap);
  // Writes the logits z above -inf (NaN is not) whose Gumbel number g may satisfy (z - rival) + g >= gumbel, where only
  // the first random word of g is known; more than these may be written, none is left out. rival is finite or -inf (all
  // logits above -inf are written then), count at most kMostTile, first_id the id of logits[0]. Returns how many.
  std::int64_t (*gumbel_hits)(const Draw& draw, const float* logits, std::int64_t first_id, std::int64_t count,
                              float rival, float gumbel, Hit* hits);
  // logprobs[j] = z - (top + excess) rounded once, of logits z that are not NaN and at most `top`, which is finite;
  // count is a multiple of kLaneGroup. Writes to `open` the indices of those it cannot prove and returns how many.
  std::int64_t (*log_softmax)(const float* logits, std::int64_t count, float top, const Excess& excess, float* logprobs,
                              std::int32_t* open);
  // dz[j] rounded once, of finite upstreams g[j] and of logits as in sums; count is a multiple of kLaneGroup. Writes to
  // `open` the indices of those it cannot prove and returns how many. Null where sums is.
  std::int64_t (*softmax_gradient)(const SoftmaxGradient& row, const float* logits, const float* g, std::int64_t count,
                                   float* dz, std::int32_t* open);
};

}  // namespace isologit::detail::kernels
