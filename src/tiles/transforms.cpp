#include "tiles/transforms.hpp"

#include <algorithm>

namespace isologit::detail::tiles {

namespace {

// IEEE multiplication and division round the exact result once; adding 0 turns -0 into +0.
void scale(const Transforms& transforms, float* logits, std::int64_t count) {
  if (transforms.scale_kind == ScaleKind::multiply) {
    for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] * transforms.scale + 0.0F;
  } else if (transforms.scale_kind == ScaleKind::divide) {
    for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] / transforms.scale + 0.0F;
  }
}

}  // namespace

bool scales_before_softcap(const Transforms& transforms) {
  return transforms.has_softcap && transforms.scale_kind != ScaleKind::none &&
         transforms.order == TransformOrder::scale_first;
}

void apply(const Transforms& transforms, const kernels::FoldLoops& loops, float* logits, std::int64_t count,
           float* uncapped) {
  const bool scale_first = scales_before_softcap(transforms);
  if (scale_first) scale(transforms, logits, count);
  if (uncapped != nullptr) std::copy(logits, logits + count, uncapped);
  if (transforms.has_softcap) loops.softcap(logits, count, transforms.softcap);
  if (!scale_first) scale(transforms, logits, count);
}

float temperature_of(std::span<const float> temperatures, std::int64_t row) {
  if (temperatures.empty()) return 1.0F;
  return temperatures[temperatures.size() == 1 ? 0 : static_cast<std::size_t>(row)];
}

void apply_temperature(float temperature, float* logits, std::int64_t count) {
  if (temperature == 1.0F) return;
  for (std::int64_t j = 0; j < count; ++j) logits[j] = logits[j] / temperature + 0.0F;
}

}  // namespace isologit::detail::tiles
