// Any text at all as config.json and as a weight index: either an error with a message, or values that keep the
// promises of their types.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/hf_config.hpp"
#include "io/weight_index.hpp"

namespace {

void check_config(const isologit::detail::io::HfConfig& config) {
  if (config.vocab_size < 1 || config.hidden_size < 0 || config.family == nullptr) std::abort();
  const isologit::Transforms& transforms = config.transforms;
  if (transforms.has_softcap && !(std::isfinite(transforms.softcap) && transforms.softcap > 0.0F)) std::abort();
  if (!std::isfinite(transforms.scale) || transforms.scale == 0.0F) std::abort();
  if (transforms.scale_kind == isologit::ScaleKind::divide && transforms.scale < 0.0F) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = isologit::detail::io::parse_hf_config(text, "fuzz");
  if (config) {
    check_config(*config);
  } else if (config.error().message.empty()) {
    std::abort();
  }
  const auto index = isologit::detail::io::parse_weight_index(text, "fuzz");
  if (index) {
    for (const auto& [tensor, file] : *index) {
      if (file.empty() || file.front() == '/' || file == ".." || file.starts_with("../")) std::abort();
      if (file.find("/../") != std::string::npos || file.ends_with("/..")) std::abort();
    }
  } else if (index.error().message.empty()) {
    std::abort();
  }
  return 0;
}
