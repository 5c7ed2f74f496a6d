// The head: a weight in the checkpoint's own [V, H] layout, and what is done to its logits.
#pragma once

#include <cstdint>

#include "isologit/encoded_weight.hpp"
#include "isologit/view.hpp"

namespace isologit {

enum class ScaleKind : std::uint8_t { none, multiply, divide };

// Which comes first where a head has both a softcap and a scale.
enum class TransformOrder : std::uint8_t { softcap_first, scale_first };

// CONTRACT.md 2: each one rounding to f32. The temperature, which follows, belongs to a request.
struct Transforms {
  bool has_softcap = false;
  float softcap = 0.0F;  // c > 0 and finite: z becomes c * tanh(z / c)
  ScaleKind scale_kind = ScaleKind::none;
  float scale = 1.0F;  // multiply: finite and not 0; divide: > 0 and finite
  TransformOrder order = TransformOrder::softcap_first;
};

// A low-rank addition to the weight, as LoRA makes it: the weight stands for weight + scale * b * a over the reals
// (CONTRACT.md 1), and no product of a, b or scale is rounded. a of no rows: none.
struct Lora {
  MatrixView a;        // [r, H]
  MatrixView b;        // [V, r], rows as the weight's
  double scale = 1.0;  // finite
};

// Nothing is copied: the views must stay valid while a call runs, and each call reads them anew, so a weight that
// was written in place between two calls is seen by the second.
struct Head {
  MatrixView weight;            // [V, H], V >= vocab_size, H >= 1
  VectorView bias;              // [V], or none
  std::int64_t vocab_size = 0;  // the real vocabulary, 1 <= vocab_size <= weight.rows; later rows are never read
  Transforms transforms;
  EncodedWeight encoded;  // instead of the weight's data
  Lora lora;
};

}  // namespace isologit
