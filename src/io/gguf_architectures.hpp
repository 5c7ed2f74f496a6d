// What llama.cpp makes of the head of a GGUF file, by the file's architecture.
#pragma once

#include <optional>
#include <string_view>

#include "isologit/head.hpp"

namespace isologit::detail::io {

// A softcap or a scale whose number is a value of the metadata.
struct GgufStep {
  bool required = true;
  std::optional<float> when_absent;  // where it is not required; none: not applied
  bool zero_is_none = false;         // whether 0 says "not applied"
};

struct GgufArchitecture {
  std::string_view name;
  bool ties = true;       // a file without output.weight has the embedding for its head
  bool has_bias = false;  // there may be an output.bias
  ScaleKind scale_kind = ScaleKind::none;
  TransformOrder order = TransformOrder::softcap_first;
  GgufStep scale;
  std::optional<GgufStep> softcap;
};

// Nothing if the architecture is not known.
std::optional<GgufArchitecture> find_gguf_architecture(std::string_view name);

}  // namespace isologit::detail::io
