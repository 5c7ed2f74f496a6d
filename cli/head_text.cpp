#include "cli/head_text.hpp"

#include <fmt/format.h>

namespace isologit::detail::cli {

std::string head_text(const io::Checkpoint& checkpoint) {
  const MatrixView& weight = checkpoint.head.weight;
  return fmt::format("{}{}  {} [{}, {}]", checkpoint.weight_name, checkpoint.tied ? " (tied)" : "",
                     dtype_name(weight.dtype), weight.rows, weight.cols);
}

std::string transforms_text(const Transforms& transforms) {
  std::string text;
  if (transforms.has_softcap) text = fmt::format("softcap {}", transforms.softcap);
  if (transforms.scale_kind == ScaleKind::none) return text.empty() ? "none" : text;
  if (!text.empty()) text += ", then ";
  return text +
         fmt::format("{} {}", transforms.scale_kind == ScaleKind::multiply ? "times" : "divided by", transforms.scale);
}

}  // namespace isologit::detail::cli
