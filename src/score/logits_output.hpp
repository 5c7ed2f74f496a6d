// Writing logits out, rounded once to the dtype asked for.
#pragma once

#include <cstdint>

#include "isologit/score.hpp"
#include "tiles/tiles.hpp"

namespace isologit::detail::score {

// The part of one row's logits that a tile holds, after all transforms.
struct LogitRow {
  const float* logits;
  std::int64_t first_id;  // of the whole vocabulary
  std::int64_t count;
  std::int64_t row;
  float temperature;
};

// Where the row comes from: needed when an f32 logit lies on a midpoint of bf16 or f16, so that rounding it again would
// not be rounding once.
struct LogitSource {
  const Shard& shard;
  const MatrixView& hidden;
  const tiles::Tiles* fast;  // of fast arithmetic: what gives the logits before the transforms; null: exact
};

void write_logits(const LogitsOutput& output, const LogitRow& row, const LogitSource& source);

// What a row that is not computed has.
void write_zeros(const LogitsOutput& output, std::int64_t row);

}  // namespace isologit::detail::score
