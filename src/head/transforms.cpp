#include "head/transforms.hpp"

namespace isologit::head {

void apply(const Transforms& transforms, float temperature, const fold::Lanes& lanes, float* logits,
           std::int64_t count) {
  if (transforms.has_softcap) lanes.softcap(logits, count, transforms.softcap);
  // IEEE multiplication and division round the exact result once; adding 0 turns -0 into +0.
  if (transforms.scale_kind == ScaleKind::multiply) {
    for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] * transforms.scale + 0.0F;
  } else if (transforms.scale_kind == ScaleKind::divide) {
    for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] / transforms.scale + 0.0F;
  }
  if (temperature != 1.0F) {
    for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] / temperature + 0.0F;
  }
}

}  // namespace isologit::head
